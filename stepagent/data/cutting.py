"""The places at which a whole solution falls into steps, as its text shows them. Nothing is changed but white space and
step marks; thoughts (<think>...</think>) are no part of a solution.

Of the rules that find at least two steps the first of these counts:

marked      lines that open with "Step n", alone or with a title, or with a bold or heading number, counting from 1
paragraphs  blank lines; a paragraph that is only a heading or a display formula belongs to its neighbour
numbered    lines at top level that open with "n." or "n)", where a whole solution is such a list
lines       one line a step
sentences   neighbouring sentences, joined up to a number of words; a short end joins the step before it

Formulas, environments, code and drawings are opaque: no rule cuts through them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal

Rule = Literal["marked", "paragraphs", "numbered", "lines", "sentences"]
WORDS = (8, 40)

_THOUGHT = re.compile(
    r"\s*<(think(?:ing)?|thought|reasoning)>.*?</\1>\s*|\A.*</think(?:ing)?>\s*", re.DOTALL | re.IGNORECASE
)
_OPAQUE = re.compile(
    r"```.*?(?:```|\Z)|~~~.*?(?:~~~|\Z)|\[asy\].*?\[/asy\]|<asy>.*?</asy>|\\begin\{(\w+\*?)\}.*?\\end\{\1\}"
    r"|\$\$.+?\$\$|\\\[.+?\\\]|\\\(.+?\\\)|(?<![\\$\d])\$(?!\s|<<|\.?\d[\d,.]*(?:\s|<<|\Z))(?:\\.|[^$\\]){1,400}?(?<!\s)\$(?!\.?\d|<<)",
    re.DOTALL,
)
_FILLER = "\ue000"  # a private character that stands for a character of an opaque span
_EMPHASIS = r"[*_]{0,3}"
_NUMBERS = {
    word: n
    for n, word in enumerate(("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"), start=1)
}
_STEP_WORD = (
    r"(?:(?:step|étape|etape|schritt|paso|passo|stap|krok|шаг)[ \t]*#?[ \t]*|步骤[ \t]*|第(?=[ \t]*\d+[ \t]*步))"
)
_STEP_MARK = re.compile(
    rf"^[ \t]*(?:[-*+>•][ \t]+)?(?:#{{1,6}}[ \t]*)?(?P<bold>{_EMPHASIS})[ \t]*[(\[]?{_STEP_WORD}"
    rf"(?P<n>\d+|{'|'.join(_NUMBERS)})(?![a-z0-9])[ \t]*步?"
    rf"(?:[ \t]*{_EMPHASIS}[ \t]*[:：.)\]][:：.]?{_EMPHASIS}|[ \t]+[-–—](?=[ \t])|(?=[ \t]*{_EMPHASIS}[ \t]*$))[ \t]*",
    re.MULTILINE | re.IGNORECASE,
)
_TITLE_MARK = re.compile(
    r"^[ \t]*(?:#{1,6}[ \t]*(?P<bold>[*_]{0,3})|(?P<bold2>\*\*|__))[ \t]*(?P<n>\d+)[.):]{1,2}(?:\*\*|__)?[ \t]+",
    re.MULTILINE,
)
_HEADING = re.compile(r"#{1,6}[^\n]*|\*\*[^*\n]+\*\*:?|[^\n]{1,60}:")
_ITEM_MARK = re.compile(r"^\(?(?P<n>\d+)[.)][ \t]+", re.MULTILINE)
_BLANK = re.compile(r"\n[ \t]*\n\s*")
_SENTENCE = re.compile(r"(?<=[.!?])(?:[\"'”’)\]]*)\s+(?=[A-Z0-9\\$(\[\"'“‘\ue000])")
_ABBREVIATION = re.compile(
    r"(?:\b(?:[A-Za-z]|Mr|Mrs|Ms|Dr|Prof|Sr|Jr|St|Mt|vs|No|Nos|Fig|Figs|Eq|Eqs|Thm|Lem|Ex|cf|al|approx|ca|resp|min|max|hr|hrs|"
    r"sec|ft|in|oz|lb|lbs|pt|qt|gal|Ave|Blvd|Rd|Inc|Ltd|Co|Corp|Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sep|Sept|Oct|Nov|Dec)"
    r"|e\.g|i\.e|a\.m|p\.m|U\.S|etc)\.$"
)
_ANSWER_MARK = re.compile(r"####[ \t]*\S")


def cut(solution: str, words: tuple[int, int] = WORDS) -> tuple[list[str], Rule] | None:
    """Return the steps of a solution, without marks and blanks around them, and the rule that found them; None where
    the text shows fewer than two. `words`: the fewest and the most of a step made of sentences (one sentence may have
    more)."""
    text = visible(solution)
    masked = _OPAQUE.sub(lambda span: _FILLER * len(span[0]), text)
    for rule, find in _RULES.items():
        steps = _with_answer(find(text, masked))
        if len(steps) > 1 and all(any(map(str.isalnum, step)) for step in steps):
            return steps, rule
    steps = _with_answer(_sentences(text, masked, words))
    return (steps, "sentences") if len(steps) > 1 else None


def visible(solution: str) -> str:
    """Return a solution without thoughts, with plain line ends."""
    text = solution.replace("\r\n", "\n").replace("\r", "\n")
    return _THOUGHT.sub("", text).strip() if "</" in text else text.strip()


def joins_to(steps: Sequence[str], solution: str) -> bool:
    """Return whether the steps are the solution, white space and step marks aside: a rule may change nothing."""
    return _bare(_unmarked("\n".join(steps))) == _bare(_unmarked(visible(solution)))


def joins_exactly(steps: Sequence[str], solution: str) -> bool:
    """Return whether the steps are the solution, white space aside: a model may not even number them."""
    return _bare("\n".join(steps)) == _bare(visible(solution))


def _bare(text: str) -> str:
    return re.sub(r"\s", "", text)


def _unmarked(text: str) -> str:
    """Return a text without marks of steps and the emphasis around them."""
    for mark in (_STEP_MARK, _TITLE_MARK, _ITEM_MARK):
        text = mark.sub("", text)
    return re.sub(r"[*_#]{1,6}", "", text)


def _marked(text: str, masked: str) -> list[str]:
    for mark in (_STEP_MARK, _TITLE_MARK):
        marks = list(mark.finditer(masked))
        if len(marks) > 1 and _counts(marks):
            return _pieces(text, marks)
    return []


def _counts(marks: Sequence[re.Match[str]]) -> bool:
    """Whether the marks count from 1 without a gap."""
    numbers = [_NUMBERS.get(mark["n"].lower()) or int(mark["n"]) for mark in marks]
    return numbers == list(range(1, len(marks) + 1))


def _pieces(text: str, marks: Sequence[re.Match[str]]) -> list[str]:
    """Return the texts behind the marks, without them and the emphasis that they opened. Text before the first mark
    belongs to the first step."""
    pieces = []
    for mark, end in pairwise([*marks, None]):
        assert mark is not None
        body = text[mark.end() : end.start() if end else len(text)].strip()
        emphasis = mark.groupdict().get("bold") or mark.groupdict().get("bold2") or ""
        line, newline, following = body.partition("\n")
        if emphasis and line.count(emphasis) % 2:  # the mark opened what the title closes
            line = line.replace(emphasis, "", 1) if line.strip() != emphasis else ""
        pieces.append((line.strip() + newline + following).strip())
    before = text[: marks[0].start()].strip()
    pieces[0] = f"{before}\n{pieces[0]}".strip() if before else pieces[0]
    return pieces


def _paragraphs(text: str, masked: str) -> list[str]:
    pieces = _with_opaque(_split(text, masked, _BLANK))
    steps: list[str] = []
    heading = ""
    for piece in pieces:
        if _HEADING.fullmatch(piece) and piece != pieces[-1]:
            heading = f"{heading}\n{piece}".strip()
        else:
            steps.append(f"{heading}\n{piece}".strip())
            heading = ""
    if heading and steps:
        steps[-1] = f"{steps[-1]}\n{heading}"
    # a solution that is a list has its marks at the head of the paragraphs, and perhaps a closing one
    numbered = _numbered(text, masked)
    if numbered and len(numbered) >= len(steps) and sum(not _ITEM_MARK.match(step) for step in steps[1:]) <= 1:
        return []
    return steps


def _numbered(text: str, masked: str) -> list[str]:
    marks = list(_ITEM_MARK.finditer(masked))
    if len(marks) < 2 or not _counts(marks):
        return []
    blank = _BLANK.search(masked, marks[-1].end())
    closing = text[blank.end() :].strip() if blank and text[marks[-1].end() : blank.start()].strip() else ""
    if blank and closing and not _OPAQUE.fullmatch(closing):  # a paragraph behind the list closes the solution
        return [*_pieces(text[: blank.start()], marks), closing]
    return _pieces(text, marks)


def _lines(text: str, masked: str) -> list[str]:
    return _with_opaque(_split(text, masked, re.compile(r"\n")))


def _with_opaque(pieces: Sequence[str]) -> list[str]:
    """Return the pieces, those that are only a formula, a drawing or code with the piece before them."""
    steps: list[str] = []
    for piece in pieces:
        if steps and _OPAQUE.fullmatch(piece):
            steps[-1] = f"{steps[-1]}\n{piece}"
        else:
            steps.append(piece)
    return steps


def _sentences(text: str, masked: str, words: tuple[int, int]) -> list[str]:
    fewest, limit = words
    sentences: list[str] = []
    for piece in _split(text, masked, _SENTENCE):
        if sentences and _ABBREVIATION.search(sentences[-1]):
            sentences[-1] = f"{sentences[-1]} {piece}"
        else:
            sentences.append(piece)
    steps: list[str] = []
    for sentence in sentences:
        if steps and len(steps[-1].split()) + len(sentence.split()) <= limit:
            steps[-1] = f"{steps[-1]} {sentence}"
        else:
            steps.append(sentence)
    if len(steps) > 1 and len(steps[-1].split()) < fewest:
        last = steps.pop()
        steps[-1] = f"{steps[-1]} {last}"
    return steps


def _split(text: str, masked: str, separator: re.Pattern[str]) -> list[str]:
    """Return the pieces of `text` between the separators that `masked`, its copy of the same length, shows."""
    cuts = [(0, 0), *((match.start(), match.end()) for match in separator.finditer(masked)), (len(text), len(text))]
    pieces = (text[start[1] : end[0]].strip() for start, end in pairwise(cuts))
    return [piece for piece in pieces if piece]


def _with_answer(steps: list[str]) -> list[str]:
    """Return the steps with a closing answer mark ("#### 72") or a lone box at the end of the last one."""
    if len(steps) > 1 and _ANSWER_MARK.match(steps[-1]) and "\n" not in steps[-1]:
        return [*steps[:-2], f"{steps[-2]}\n{steps[-1]}"]
    return steps


_RULES: dict[Rule, Callable[[str, str], list[str]]] = {
    "marked": _marked,
    "paragraphs": _paragraphs,
    "numbered": _numbered,
    "lines": _lines,
}
