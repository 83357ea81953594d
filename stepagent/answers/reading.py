"""The final answer of a worked solution: the whole stated value, or None; never a piece of it.

Where several places state one, the first of these that can be read counts, and the last such place in the text:

box         \\boxed{...}, \\boxed 9, \\fbox{...}
mark        #### value (GSM8K)
statement   The answer is ..., Answer: ..., the correct option is ...
last line   a formula, the value behind the last =, the last number, a choice

A place is read as one of these forms: value (3 1/2, 1,234.5, 12.5%, 3 \\times 10^5), value with a unit, list of values,
formula, choice, yes or no, a few words. Thoughts (<think>...</think> and the like) state nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from stepagent.answers.forms import INTEGER, PERCENT, VALUE, balanced
from stepagent.answers.statements import (
    FORMULA,
    clean,
    formula_content,
    formula_value,
    is_formula,
    read_choice,
    read_formula,
    read_statement,
    read_value,
    read_words,
    read_yes,
)

_TAGS = r"think(?:ing)?|thoughts?|reasoning|analysis|scratchpad"
_THOUGHT = re.compile(rf"<({_TAGS})>.*?</\1>|\[(THINK)\].*?\[/THINK\]", re.DOTALL | re.IGNORECASE)
_THOUGHT_END = re.compile(
    rf".*(?:</(?:{_TAGS})>|\[/THINK\]|<\|channel\|>final<\|message\|>)", re.DOTALL | re.IGNORECASE
)
_THOUGHT_START = re.compile(rf"<(?:{_TAGS})>|\[THINK\]", re.IGNORECASE)
_CONTROL = re.compile(r"<\|[^|<>\s]{1,40}\|>|</?s>|<(?:eos|end_of_turn|endoftext)>")
_BOX = re.compile(r"\\(?:boxed|fbox|framebox)(?![a-zA-Z])\s*")
_BARE_BOX = re.compile(rf"\$?\s*({VALUE}|\\[a-zA-Z]+|[a-zA-Z])")
_BETWEEN_BOXES = re.compile(r"[\s$\\()\[\]]*(?:,|;|and|or|\\text\{ ?(?:and|or) ?\})?[\s$\\()\[\]]*")
_PLAIN = re.compile(rf"-?{INTEGER}(?:\.\d+)?")
_MARK_SIGN = re.compile(r"####(?!#)\s?")
_ANSWER_TAG = re.compile(r"<answer>(.*?)</answer>", re.DOTALL | re.IGNORECASE)
_MARK = re.compile(r"####\s*([^\n]+)")
_FILLER = r"that|therefore|thus|then|simply|just|given\s+by|equal\s+to|option|choice|letter"
_LINK = rf"(?:\s+(?:is|are|was|be|equals?|becomes)\b(?:\s+(?:{_FILLER})\b)*\s*[:=]?|\s*[:=≈])"
_KEYWORDS = ("answer", "ans", "option", "choice", "letter")
_SUBJECT = (
    r"(?:(?:final|correct|right|best)\s+)*(?:answers?|ans\.?)(?:\s+(?:choice|option))?"
    r"|(?:correct|right|best)\s+(?:options?|choices?|letters?)|(?:option|choice)(?=\s+is)"
)
_STATEMENT = re.compile(
    rf"\b(?:{_SUBJECT})[*_`\s]*(?:\s(?:to|of|for|in)\s[^.:=\n]{{0,80}}?)?"
    rf"(?:\s+(?:then|therefore|thus|hence|must|should|will|would|can|could|here|now))*[*_`]*{_LINK}",
    re.IGNORECASE,
)
_CALCULATION = re.compile(r"<<[^<>\n]*>>")
_WORDS = re.compile(r"\\(?:text|textbf|texttt|mathrm|mathbf)\s*\{([^{}]*)\}")
_HOPE = re.compile(r"\.?\s*I hope (?:it is|it's|this is|that is|this helps)[^\n]*", re.IGNORECASE)
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z])")


def final_answer(solution: str) -> str | None:
    """Return the final answer that a solution states, as it stands there but for marks around it; None if it states
    none that can be read whole."""
    text = _visible(solution)
    boxes = _boxes(text)
    if boxes is not None:
        return boxes or None
    return _marked(text) or _stated(text) or (None if _unread_statement(text) else _last_line(text))


def stated_answer(solution: str) -> str | None:
    """Return the answer that a worked solution marks: the last box, else the value behind "####"."""
    text = _visible(solution)
    boxes = _boxes(text)
    return boxes or None if boxes is not None else _marked(text)


def answer_text(solution: str) -> str | None:
    """Return the final answer as the text that it is, of any length and form: the last <answer>...</answer>, else the
    last box, the rest of the line behind "####" or a statement such as "The answer is" (the lines that follow, if
    that is empty), the last line. None for a text without any."""
    text = without_thoughts(solution).strip()
    if tags := _ANSWER_TAG.findall(text):
        return str(tags[-1]).strip()
    for match in reversed(list(_BOX.finditer(text))):
        if text[match.end() : match.end() + 1] == "{" and (end := balanced(text, match.end())) is not None:
            return text[match.end() + 1 : end - 1].strip()
    place = max((match.end() for form in (_STATEMENT, _MARK_SIGN) for match in form.finditer(text)), default=None)
    if place is not None:
        line, _, after = text[place:].lstrip(" \t*_`:").partition("\n")
        return line.strip(" *_`\t") or after.strip() or None
    return text.rpartition("\n")[2].strip() or None


def readings(solution: str) -> list[str]:
    """Return the ways to read the one answer that a solution states, the text that it is first: without marks around
    it, and without its unit."""
    text = answer_text(solution)
    if text is None:
        return []
    bare = clean(_WORDS.sub(r"\1", text)).strip("$")
    return list(dict.fromkeys(reading for reading in (text, bare, read_value(bare)) if reading))


def _visible(solution: str) -> str:
    """Return the solution without thoughts, control tokens and calculator marks."""
    text = without_thoughts(_CALCULATION.sub("", solution) if "<<" in solution else solution)
    return _HOPE.sub("", text) if " hope " in text else text


def without_thoughts(text: str) -> str:
    """Return a text without the model's thoughts and control tokens."""
    if "<" in text or ("[" in text and "think]" in text.lower()):
        text = _THOUGHT.sub("", text)
        if "</" in text or "[/" in text or "<|" in text:
            text = _THOUGHT_END.sub("", text)
        if open_thought := _THOUGHT_START.search(text):
            text = text[: open_thought.start()]  # a thought that never ended: nothing behind it is an answer
        text = _CONTROL.sub("", text)
    return text


def _boxes(text: str) -> str | None:
    """Return the content of the last box, or of neighbouring boxes as a list; "" for one that cannot be read, None
    without any box."""
    if "boxed" not in text and "box{" not in text and "fbox" not in text:
        return None
    boxes: list[tuple[int, int, str]] = []
    for match in _BOX.finditer(text):
        start = match.end()
        if text[start : start + 1] == "{":
            end = balanced(text, start)
            if end is not None and (not boxes or start > boxes[-1][1]):
                boxes.append((match.start(), end, text[start + 1 : end - 1].strip()))
            elif end is None:
                boxes.append((match.start(), len(text), ""))
        elif bare := _BARE_BOX.match(text, start):
            boxes.append((match.start(), bare.end(), bare[1].strip()))
    if not boxes:
        return None
    contents = [boxes[-1][2]]
    for (_, end, content), (start, _, _) in zip(boxes[-2::-1], boxes[:0:-1], strict=False):
        if not content or not _BETWEEN_BOXES.fullmatch(text[end:start]):
            break
        contents.insert(0, content)
    if len(contents) > 1 and all(contents):
        return ", ".join(dict.fromkeys(contents))
    return read_choice(contents[-1]) or contents[-1]


def _marked(text: str) -> str | None:
    """Return the last value behind "####": a heading of words is none."""
    if "####" not in text:
        return None
    for match in reversed(list(_MARK.finditer(text))):
        if _PLAIN.fullmatch(match[1]):
            return match[1]
        line = clean(match[1])
        value = read_value(line) or read_formula(line) or read_choice(line)
        if value or (value := read_yes(line)):
            return value
    return None


def _stated(text: str) -> str | None:
    """Return the reading of the last statement of an answer. A value of an earlier one goes before mere words of a
    later one, such as "the answer is correct"."""
    words: str | None = None
    for match in _statements(text):
        statement = _first_paragraph(text[match.end() :])
        value = read_statement(statement)
        if value is not None:
            return value
        if words is None:
            words = read_words(clean(statement))
    return words


def _statements(text: str) -> Iterator[re.Match[str]]:
    """Yield the statements of a text, the last one first. Only lines with one of their words are looked at."""
    lowered = text.lower()
    end = len(text)
    while (place := max(lowered.rfind(word, 0, end) for word in _KEYWORDS)) >= 0:
        start = lowered.rfind("\n", 0, place) + 1
        line_end = lowered.find("\n", place)
        # a statement may end on the next line, where its link is the line's only mark
        yield from reversed(list(_STATEMENT.finditer(text, start, len(text) if line_end < 0 else line_end)))
        end = start


def _unread_statement(text: str) -> bool:
    """Whether the last line states an answer, in a form that cannot be read: then a piece of it would be a guess."""
    return _STATEMENT.search(text.rstrip().rpartition("\n")[2]) is not None


def _first_paragraph(text: str) -> str:
    """Return the rest of a statement: to the end of its line, or the formula or line that follows an open one."""
    body = text.lstrip(" \t*_`:")
    line, _, after = body.partition("\n")
    says_something = line.strip(" \t*_`:$") or line.strip().startswith("$")
    if says_something and not re.match(r"\s*(?:\$\$|\\\[)\s*$", line):
        return line if _balanced_display(line) else body.partition("\n\n")[0]
    body = (line + "\n" + after).strip(" \t\n*_`:") if line.strip(" \t*_`:") else after.strip(" \t\n*_`:")
    if display := re.match(r"\$\$.+?\$\$|\\\[.+?\\\]", body, re.DOTALL):
        return display[0]
    return body.partition("\n")[0]


def _balanced_display(line: str) -> bool:
    return line.count("\\[") == line.count("\\]") and line.count("$$") % 2 == 0


def _last_line(text: str) -> str | None:
    """Return the reading of the last line with words or numbers: a formula, the value behind "=", the last number."""
    body = text.rstrip().rstrip("`").rstrip()
    if body.rstrip(" .").endswith(("$$", "\\]")):
        displays = list(re.finditer(r"\$\$(.+?)\$\$|\\\[(.+?)\\\]", body, re.DOTALL))
        if displays and not body[displays[-1].end() :].strip(" .\n"):
            return formula_value(displays[-1][1] or displays[-1][2])
    last = ""
    while body and not last:
        body, _, line = body.rpartition("\n")
        if any(map(str.isalnum, line)) and not line.lstrip().startswith("#"):
            last = re.sub(r"^\s*A\s*:\s*", "", line)
    if not last:
        return None
    line = clean(last)
    for sentence in reversed(_SENTENCE_END.split(last)):
        value = read_statement(sentence)
        if value is not None:
            return value
    formulas = [match for match in FORMULA.finditer(line) if is_formula(formula_content(match))]
    numbers = list(re.finditer(rf"(?<![\w.]){VALUE}(?:{PERCENT})?", line))
    if formulas and (not numbers or numbers[-1].start() < formulas[-1].end()):
        return formula_value(formula_content(formulas[-1]))
    return numbers[-1][0].strip() if numbers else None
