"""One statement of an answer, such as "2.5 kg of flour" or "x = 3, since ...": its value, formula, choice or words."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

from stepagent.answers.forms import LETTER, MEASURED, PERCENT, SEPARATOR, UNIT, VALUE, plain_unicode, split_top

_ABOUT = re.compile(
    r"^(?:(?:approximately|about|around|roughly|exactly|simply|just|only|equal\s+to|therefore|thus|a\s+total\s+of|option|"
    r"choice|letter|is|are|≈|~|=|:|\\approx)\s*)+",
    re.IGNORECASE,
)
_CLAUSE = re.compile(
    r"\s*(?:[,;(—]|\.\s|\s-\s(?!\d)|(?:\s+|^)(?:because|since|as|so|which|where|when|if|for|that|after|with|from|than|in|on|at|"
    r"per|total|altogether|left|more|of(?!\s+\d)|to\s+\w*[a-z]))",
    re.IGNORECASE,
)
FORMULA = re.compile(r"\$\$(.+?)\$\$|\$((?:\\.|[^$\\])+?)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)
_WORD_CHOICE = re.compile(rf"(?:\b(?:is|be|option|choice|answer|letter|choose|pick|select)\s+)\(?({LETTER})\)?\s*$")
_RIGHT_CHOICE = re.compile(
    rf"(?:^|\b(?:[Oo]ption|[Cc]hoice|[Aa]nswer)\s+)\(?({LETTER})\)?\s+is\s+(?:the\s+)?(?:correct|right|best)\b"
)
_NAME = r"[a-zA-Z](?:_\{?\w+\}?)?\s*=\s*"
_NAMED_LIST = re.compile(rf"{_NAME}{VALUE}(?:{PERCENT})?(?:{SEPARATOR}{_NAME}{VALUE}(?:{PERCENT})?)+$")
_CHOICE = re.compile(
    rf"\\?\(\s*({LETTER})\s*\\?\)(?:[\s.:,].*)?|({LETTER})|({LETTER})\s?[).:](?:\s.*|\(.*)?", re.DOTALL
)
_EQUALS = re.compile(r"=|\b(?:which|that) (?:is|equals|gives|makes)\b|\bi\.e\.,?")
_YES = re.compile(r"(yes|no|true|false)\b(?=\s*(?:[,.;:!(—-]|because|since|as|$))", re.IGNORECASE)
_IDLE = frozenset(
    [
        "correct",
        "right",
        "wrong",
        "incorrect",
        "reasonable",
        "valid",
        "invalid",
        "unique",
        "clear",
        "obvious",
        "below",
        "above",
        "follows",
        "shown",
        "given",
        "found",
        "different",
        "the",
        "a",
        "an",
        "it",
        "this",
        "that",
        "not",
        "as",
    ]
)
_TEXT_WORDS = 6


def read_statement(statement: str) -> str | None:
    """Return the value, formula, list, choice, yes or no that a statement is or opens with; None for words."""
    text = clean(statement)
    if not text:
        return None
    readings = (read_value, read_choice, read_formula, read_yes, _named_list)
    for reading in (*readings, _opening, _equation, _only_number, _word_choice):
        if (value := reading(text)) is not None:
            return value
    return None


def clean(text: str) -> str:
    """Return a statement without emphasis, quotes, filler words and closing marks."""
    text = plain_unicode(text.strip())
    text = re.sub(r"\*{1,3}|__|`", "", text).strip().strip("\"'“”‘’").strip()
    text = re.sub(r"(?:\s|\\[,;! ]|\\\\|[.,;:!?])+$", "", text).strip("\"'“”‘’")
    text = _ABOUT.sub("", text).strip()
    return text[1:-1].strip() if text[:1] + text[-1:] in ('""', "''") else text


def read_value(text: str) -> str | None:
    """Return a value, with or without its unit, or a list of values, that is the whole text."""
    if re.fullmatch(rf"{VALUE}(?:{PERCENT})?", text):
        return text
    if measured := re.fullmatch(rf"({VALUE}(?:{PERCENT})?)(?:{UNIT}){{0,4}}", text):
        return measured[1].strip()
    items = [item.strip() for item in split_top(text, SEPARATOR)]
    if len(items) > 1 and all(re.fullmatch(MEASURED, item) for item in items):
        return ", ".join(str(read_value(item)) for item in items)
    return None


def read_choice(text: str) -> str | None:
    """Return the letter of a choice that is the whole text, or opens it with a mark: (C), C, C) 12, E: a risk."""
    bare = re.sub(r"\\(?:text|textbf|mathrm|mathbf|rm)\s*\{([^{}]*)\}", r"\1", text).strip().strip("$").strip()
    letters = [item.strip("() ") for item in split_top(bare, SEPARATOR)]
    if len(letters) > 1 and all(re.fullmatch(LETTER, letter) for letter in letters):
        return ", ".join(letters)
    match = _CHOICE.fullmatch(bare)
    if not match or (bare.startswith("A:") and read_value(bare[2:].strip())):  # A: 18 is an answer, not a choice
        return None
    return match[1] or match[2] or match[3]


def _word_choice(text: str) -> str | None:
    match = _WORD_CHOICE.search(text) or _RIGHT_CHOICE.search(text)
    return match[1] if match else None


def _named_list(text: str) -> str | None:
    """Return the list of named values that ends a statement, such as x = 1 and x = 2."""
    match = _NAMED_LIST.search(text)
    return _values_of(split_top(match[0], SEPARATOR)) if match else None


def _values_of(items: Sequence[str]) -> str:
    """Return a list of equations: their values if all have the same left side, else the equations as they are."""
    equations = [item.split("=", 1) for item in items]
    if len({name.strip() for name, _ in equations}) == 1:
        return ", ".join(value.strip() for _, value in equations)
    return ", ".join(item.strip() for item in items)


def read_yes(text: str) -> str | None:
    """Return the yes, no, true or false that opens a statement."""
    match = _YES.match(text)
    return match[1] if match else None


def formula_content(match: re.Match[str]) -> str:
    """Return the text between the delimiters of a formula."""
    return next(group for group in match.groups() if group is not None)


def is_formula(content: str) -> bool:
    """Whether the text between two dollar signs is a formula, and not prose between two prices."""
    return not re.search(r"(?<![\\a-zA-Z{])[a-zA-Z]{4,}(?:\s|$)", re.sub(r"\\(?:text|mathrm)\{[^{}]*\}", "", content))


def read_formula(text: str) -> str | None:
    """Return the formula that a statement holds: the only one, the one it opens with, or a list of several."""
    if not ("$" in text or "\\(" in text or "\\[" in text):
        return text if _is_latex(text) else None
    formulas = [match for match in FORMULA.finditer(text) if is_formula(formula_content(match))]
    if not formulas:
        bare = text.strip("$ ")
        return bare if _is_latex(bare) else None
    values = [formula_value(formula_content(match)) for match in formulas]
    outside = [text[: formulas[0].start()], *(text[a.end() : b.start()] for a, b in pairwise(formulas))]
    behind = text[formulas[-1].end() :]
    if len(formulas) > 1 and all(re.fullmatch(SEPARATOR, piece) for piece in outside[1:]):
        return ", ".join(value for value in values if value)
    links = ("is", "=", ":", "are", "equals", "to", "that", "option")
    opens = not outside[0].strip() or outside[0].rstrip().endswith(links)
    if opens and (len(formulas) == 1 or _CLAUSE.match(text[formulas[0].end() :])):
        return values[0]
    if len(formulas) == 1 and not re.search(r"\d", outside[0] + behind):
        return values[0]
    return None


def _is_latex(text: str) -> bool:
    """Whether a text without dollar signs is LaTeX or arithmetic all the same."""
    if "\\" in text and re.match(r"[-+]?\s*(?:\\[a-zA-Z{]|\d[\d.,]*\s*\\[a-zA-Z]|[\[({a-z])", text):
        return not re.search(r"(?<![\\a-zA-Z{])[a-zA-Z]{4,}\s", re.sub(r"\\text\{[^{}]*\}", "", text))
    return bool(
        re.fullmatch(r"[\[(]?[-+\d\s.,/*^()a-z\[\]{}]*\d[-+\d\s.,/*^()a-z\[\]{}]*[\])]?", text)
    ) and not re.search(r"[a-z]{2,}", text)


def formula_value(content: str) -> str | None:
    """Return a formula's value: behind its last equals sign, without closing marks."""
    text = re.sub(r"(?:\s|\\[,;! ]|\\\\|[.,;:])+$", "", content.strip())
    items = split_top(text, SEPARATOR)
    if len(items) > 1 and all(re.match(_NAME, item.strip()) for item in items):
        return _values_of(items)
    sides = split_top(
        re.sub(r"\\begin\{(?:align|aligned|equation|gather)\*?\}|\\end\{\w+\*?\}|&", "", text), r"=|\\approx\b"
    )
    value = sides[-1].strip() if all(side.strip() for side in sides[:1]) or len(sides) > 1 else text
    return read_choice(value) or value or None


def _opening(text: str) -> str | None:
    """Return the value that a statement opens with, if a clause or a description follows it."""
    match = re.match(rf"{VALUE}(?:{PERCENT})?(?:{UNIT}){{0,3}}?(?={_CLAUSE.pattern})", text, re.IGNORECASE)
    if match and "=" not in text[match.end() : match.end() + 3]:
        return read_value(match[0].strip())
    letter = re.match(rf"({LETTER})(?=\s*(?:,|;|because|since|as\s))", text)
    return letter[1] if letter else None


def _equation(text: str) -> str | None:
    """Return the value behind the last equals sign of a statement in prose."""
    *_, right = _EQUALS.split(text)
    if right == text:
        return None
    right = clean(right)
    return read_value(right) or read_formula(right) or _opening(right)


def _only_number(text: str) -> str | None:
    """Return the value of a sentence that names just one."""
    if "=" in text or "\\" in text:
        return None
    numbers = list(re.finditer(rf"(?<![\w.]){VALUE}(?:{PERCENT})?(?![\w]*\d)", text))
    return numbers[0][0].strip() if len(numbers) == 1 else None


def read_words(text: str) -> str | None:
    """Return a short answer in words; None for a sentence about the answer."""
    words = re.sub(r"\\text\{([^{}]*)\}", r"\1", text.strip("$ ")).split()
    if not 0 < len(words) <= _TEXT_WORDS or words[0].casefold() in _IDLE or "I" in words or re.search(r"\d", text):
        return None
    return " ".join(words)
