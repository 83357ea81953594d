"""Whether two answers are the same value: as text, choice, exact number, list, or, by sympy, as mathematics.

Equality is exact: numbers are compared as fractions, expressions symbolically or to 60 digits. A decimal of six places
or more also equals a value that rounds to it.
"""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache

from stepagent.answers.forms import INTEGER, LETTER, PERCENT, SEPARATOR, UNIT, VALUE, plain_unicode, split_top
from stepagent.answers.mathematics import same_mathematics

_MARKS = re.compile(r"\\left|\\right|\\displaystyle|\\(?:big|Big|bigg|Bigg)[lr]?(?![a-zA-Z])|\\!|\\limits")
_SPACES = re.compile(r"(?<!\\)\\[,;: ]|\\quad|\\qquad|~|\s")
_STYLE = re.compile(r"\\(?:text|mathrm|textbf|mathbf|textit|mathit|textrm|operatorname|mbox|rm|bf)\s*\{([^{}]*)\}")
_UNITS = re.compile(rf"({VALUE})(?:{UNIT}){{1,4}}")
_NAME = re.compile(r"(?:[a-zA-Z](?:_\{?\w+\}?)?|[a-zA-Z]\([a-z]\))\s*(?:=|\\in(?![a-z]))\s*")
_PLAIN = re.compile(rf"-?{INTEGER}(?:\.\d{{1,5}})?")
_SCALES = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}
_PLACES = 6


def same_answer(answer: str, reference: str) -> bool:
    """Return whether two answers are the same value. Answers that sympy cannot compare within five seconds are not."""
    return _same(answer, reference)


def _same(first: str, second: str) -> bool:
    if _PLAIN.fullmatch(first) and _PLAIN.fullmatch(second):
        return first == second or _decimal(first) == _decimal(second)
    a, b = normal(first), normal(second)
    if "=" in a + b or "\\in " in a + b:
        a, b = _without_names(a, b)
    if a.casefold() == b.casefold():
        return bool(a)
    letters = choice_letters(first), choice_letters(second)
    if letters[0] and letters[1]:
        return letters[0] == letters[1]
    numbers = number(a), number(b)
    if numbers[0] is not None and numbers[1] is not None:
        percents = "%" in first, "%" in second
        is_equal = numbers[0] == numbers[1] or _rounds(a, numbers[1]) or _rounds(b, numbers[0])
        return is_equal or (percents[0] != percents[1] and numbers[0] in (numbers[1] * 100, numbers[1] / 100))
    lists = _items(a), _items(b)
    if len(lists[0]) > 1 or len(lists[1]) > 1:
        return _same_lists(lists)
    ratios = a.count(":"), b.count(":")
    if ratios[0] or ratios[1]:
        return ratios[0] == ratios[1] and all(map(_same, a.split(":"), b.split(":")))
    bases = _base(a), _base(b)
    if bases[0] or bases[1]:
        return bases[0] is not None and bases[0] == bases[1]
    return _is_mathematics(a) and _is_mathematics(b) and same_mathematics(a, b)


@lru_cache(1 << 14)
def normal(text: str) -> str:
    """Return an answer in one spelling: LaTeX without styles, spaces, units, currencies and the name before "="."""
    text = plain_unicode(text.strip())
    text = _STYLE.sub(lambda match: match[1], _MARKS.sub("", text))
    for opening, closing in (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]")):
        if text.startswith(opening) and text.endswith(closing) and len(text) > len(opening) + len(closing):
            text = text[len(opening) : -len(closing)].strip()
    text = re.sub(r"(?<=\d)(?:\\[,!;: ]|\{,\}|\u202f)(?=\d{3}(?!\d))", "", text)
    text = re.sub(r"\\?[$€£¥₹]|(?<!\\)\\(?=\d)", "", re.sub(r"\s+", " ", _SPACES.sub(" ", text)))
    text = re.sub(r"\*{2}|`", "", text).strip().rstrip(".,;:").strip()
    text = re.sub(r"(?<![\w)}])!$", "", text)  # behind a value it is a factorial
    text = re.sub(rf"{PERCENT}(?=\s|$|,)", "", text)
    if (unit := _UNITS.fullmatch(text)) and not re.search(
        r"\b(?:hundred|thousand|million|billion|trillion|dozen)\b", text
    ):
        text = unit[1]
    text = re.sub(r"\\[dtc]frac(?![a-z])", r"\\frac", text)
    text = re.sub(r"\\frac\s*(\d)\s*(\d)", r"\\frac{\1}{\2}", text)
    text = re.sub(r"\\frac\s*(\d)\s*\{", r"\\frac{\1}{", text)
    text = re.sub(r"\\frac\s*\{([^{}]*)\}\s*(\d)", r"\\frac{\1}{\2}", text)
    text = re.sub(r"\\sqrt\s*(\w)", r"\\sqrt{\1}", text)
    text = re.sub(r"\\sqrt\s*\(([^()]*)\)", r"\\sqrt{\1}", text)
    text = re.sub(r"\\frac\s*\{(\d+)\}\s*\{(\d+)\}", r"\\frac{\1}{\2}", text)
    text = re.sub(r"\s+(?=[,)\]])|(?<=[(\[])\s+", "", text)
    text = re.sub(r",(?=[^\s\d]|\d(?!\d\d(?!\d)))", ", ", text)
    if "\\begin" in text:
        text = re.sub(r"(?<![a-zA-Z])\s+|\s+(?![a-zA-Z])", "", text)
    return re.sub(r"\s+", " ", text).strip()


def choice_letters(text: str) -> tuple[str, ...] | None:
    """Return the letters of a choice or of several, in order of the alphabet; None for another answer."""
    bare = _STYLE.sub(lambda match: match[1], text).strip().strip("$.* ")
    letters = [item.strip() for item in re.split(r"\s*(?:,|;|\band\b|\bor\b|&)\s*", bare)]
    matches = [re.fullmatch(rf"\(?({LETTER})[).:]?", letter) for letter in letters]
    if all(matches):
        return tuple(sorted(match[1] for match in matches if match))
    opening = re.match(rf"\(({LETTER})\)\s|({LETTER})[).:]\s", bare)
    return (opening[1] or opening[2],) if opening else None


@lru_cache(1 << 14)
def number(text: str) -> Fraction | None:
    """Return the exact value of a number, a fraction, a mixed or repeating number or a power of ten, else None."""
    text = text.replace("\\cdot", "\\times").strip()
    if repeating := re.fullmatch(r"(-?)(\d+)\.(\d*)\\overline\s*\{?(\d+)\}?", text):
        sign, whole, fixed, cycle = repeating.groups()
        tail = Fraction(int(cycle), (10 ** len(cycle) - 1) * 10 ** len(fixed))
        value = Fraction(int(whole)) + Fraction(int(fixed or 0), 10 ** len(fixed)) + tail
        return -value if sign else value
    if scaled := re.fullmatch(r"(.+?)\s+(hundred|thousand|million|billion|trillion)", text):
        value_before = number(scaled[1])
        return None if value_before is None else value_before * 10 ** _SCALES[scaled[2]]
    if power := re.fullmatch(r"(?:(.+?)\s*(?:\\times|[x*])\s*)?10\s*\^\s*[{(]?([-+]?\d{1,3})[)}]?", text):
        factor = number(power[1]) if power[1] else Fraction(1)
        return None if factor is None else factor * Fraction(10) ** int(power[2])
    text = re.sub(r"^\+\s*", "", re.sub(r"^-\s+", "-", text))
    if mixed := re.fullmatch(
        r"(-?)(\d+)\s*(?:\s|-|\sand\s)?\s*(?:\\frac\{(\d+)\}\{(\d+)\}|(?<=[\s-])(\d+)\s?/\s?(\d+))", text
    ):
        sign, whole, *parts = mixed.groups()
        top, bottom = (int(part) for part in parts if part is not None)
        return _ratio(int(whole) * bottom + top, bottom, sign)
    if ratio := re.fullmatch(r"(-?)(?:\\frac\{(-?[\d,.]+)\}\{(-?[\d,.]+)\}|([\d,.]+)\s?/\s?(-?[\d,.]+))", text):
        sign, *parts = ratio.groups()
        numerator, denominator = (_decimal(part) for part in parts if part is not None)
        if numerator is None or not denominator:
            return None
        return -numerator / denominator if sign else numerator / denominator
    return _decimal(text)


def _rounds(text: str, value: Fraction) -> bool:
    """Whether a decimal of six places or more is `value`, rounded to as many."""
    _, _, places = text.partition(".")
    return (
        places.isdigit() and len(places) >= _PLACES and abs((_decimal(text) or 0) - value) * 2 * 10 ** len(places) <= 1
    )


def _without_names(a: str, b: str) -> tuple[str, str]:
    """Return two answers without the name before an equals sign, unless the names differ or one gives several."""
    if max(a.count("="), b.count("=")) > 1:
        return a, b
    names = [_NAME.match(text) for text in (a, b)]
    if names[0] and names[1] and names[0][0] != names[1][0]:
        return a, b
    if (names[0] or "=" not in a) and (names[1] or "=" not in b):
        return _NAME.sub("", a, count=1) if names[0] else a, _NAME.sub("", b, count=1) if names[1] else b
    return a, b


def _ratio(top: int, bottom: int, sign: str) -> Fraction | None:
    return None if bottom == 0 else Fraction(-top if sign else top, bottom)


def _decimal(text: str) -> Fraction | None:
    if not re.fullmatch(r"-?(?:(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d{1,3})?", text):
        return None
    return Fraction(text.replace(",", ""))


def _items(text: str) -> list[str]:
    """Return the items of a list at top level; braces of a set aside."""
    inner = re.fullmatch(r"\\\{(.*)\\\}", text)
    items = [item.strip() for item in split_top(inner[1] if inner else text, SEPARATOR)]
    return items if all(items) else [text]


def _same_lists(lists: tuple[list[str], list[str]]) -> bool:
    """Whether two lists hold the same values, in whatever order."""
    items, other_items = lists
    if len(items) != len(other_items):
        return False
    unmatched = list(other_items)
    for item in items:
        twin = next((candidate for candidate in unmatched if _same(item, candidate)), None)
        if twin is None:
            return False
        unmatched.remove(twin)
    return True


def _base(text: str) -> tuple[int, int] | None:
    """Digits with a base, such as 2516_{8}: value and base."""
    match = re.fullmatch(r"([0-9A-Fa-f]+)_\{?(\d{1,2})\}?", text)
    if not match or not 2 <= int(match[2]) <= 16:
        return None
    try:
        return int(match[1], int(match[2])), int(match[2])
    except ValueError:
        return None


def _is_mathematics(text: str) -> bool:
    """Whether a text is worth a parser's time: words are not."""
    if re.search(r"(?<![\\a-zA-Z])[a-zA-Z]{4,}", re.sub(r"\\(?:begin|end)\{\w+\}", "", text)):
        return False
    return bool(re.search(r"\d|\\[a-zA-Z]|[-+*/^=]|^[a-zA-Z]$", text))
