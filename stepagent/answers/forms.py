"""The forms of a value in prose: numbers with their grouping, mixed numbers, fractions, units, choices, lists.

One table of patterns, from which `reading` and `comparing` are built. Every pattern matches a whole value or nothing.
"""

from __future__ import annotations

import re
import unicodedata

_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺", "0123456789-+")
_SYMBOLS = {
    "−": "-", "–": "-", "‐": "-", "‑": "-", "﹣": "-", "－": "-", "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ",
    "÷": "/", "⁄": "/", "π": r"\pi ", "∞": r"\infty ", "°": r"^\circ ", "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ",
    "±": r"\pm ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "θ": r"\theta ", "α": r"\alpha ", "β": r"\beta ",
    "λ": r"\lambda ", "φ": r"\phi ", "τ": r"\tau ", "Δ": r"\Delta ", "％": "%", "．": ".", "，": ",", "：": ":",
    "（": "(", "）": ")", "＝": "=", "＋": "+", "＄": "$", "\u00a0": " ", "\u202f": " ", "\u2009": " ", "\u200b": "",
}  # fmt: skip
_SYMBOL = re.compile("|".join(map(re.escape, _SYMBOLS)))
_VULGAR = re.compile(r"(\d?)\s?([¼½¾⅐-⅞])")
_ROOT = re.compile(r"√\s*(\([^()]*\)|\{[^{}]*\}|\d+(?:\.\d+)?|[a-zA-Z])")
_SUPERSCRIPT = re.compile("[⁰¹²³⁴-⁹⁻⁺]+")

CURRENCY = r"\\?[$€£¥₹]"
INTEGER = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)"
NUMBER = rf"(?:{INTEGER}(?:\.\d+)?|\.\d+)"
SIGNED = rf"[-+]?\s?(?:{CURRENCY}\s?)?[-+]?{NUMBER}"
FRACTION = rf"[-+]?{INTEGER}\s?/\s?-?{INTEGER}"
MIXED = r"[-+]?\d+(?:\s+|\s?-\s?(?=\d+/)|\s+and\s+)\d+/\d+"
POWER = r"\^\s?(?:\{[-+]?\d+\}|\([-+]?\d+\)|[-+]?\d+)"
SCIENTIFIC = rf"{SIGNED}\s?(?:\\times|\\cdot|[x*])\s?10\s?{POWER}|{SIGNED}[eE][-+]?\d+"
SCALE = r"(?:hundred|thousand|million|billion|trillion|dozen)"
CONSTANT = (
    rf"[-+]?(?:{NUMBER}\s?)?(?:\\pi|\\sqrt\s?(?:\[\d\])?\{{[^{{}}]*\}})(?![a-z])(?:\s?\\pi)?(?:\s?/\s?{INTEGER})?"
)
RATIO = rf"{INTEGER}(?:\s?:\s?{INTEGER})+"
LATEX_FRACTION = r"[-+]?\d*\s?\\[dtc]?frac\s?\{-?[\d,.]+\}\s?\{-?[\d,.]+\}"
VALUE = rf"(?:{LATEX_FRACTION}|{RATIO}|{SCIENTIFIC}|{CONSTANT}|{MIXED}|{FRACTION}|{SIGNED}(?:\s+{SCALE})?)"
PERCENT = r"\s?(?:\\?%|percent\b|\\?\^\\circ)"
_NO_UNIT = r"(?!(?:and|or|to|plus|minus|times|over|but|since|because|as|so|which|where|when|if|is|are|a|x)\b)"
UNIT = rf"(?:\s?{_NO_UNIT}[A-Za-zµΩ]+(?:\^\{{?[23]\}}?|\.(?=\s|$))?(?:\s?/\s?[a-z]+)?)"
MEASURED = rf"{VALUE}(?:{PERCENT})?(?:{UNIT}){{0,4}}"
"""A value with its unit of at most four words, such as 12 square inches or 50 miles per hour."""
LETTER = r"[A-HJ-Z]"  # a lone I is a pronoun far more often than a choice
SEPARATOR = r"(?:\s*(?:;|,(?=\s)|,(?!\d{3}(?!\d)))\s*(?:and\s+|or\s+)?|\s+(?:and|or|\\text\{\s*(?:and|or)\s*\})\s+)"
"""Between the items of a list; a comma before three digits groups thousands."""


def plain_unicode(text: str) -> str:
    """Return a text with mathematical signs as ASCII and LaTeX: minus, fractions, roots, powers, Greek letters."""
    if text.isascii():
        return text
    text = _VULGAR.sub(_vulgar, text)
    text = _ROOT.sub(lambda match: r"\sqrt{" + match[1].strip("(){}") + "}", text)
    text = _SUPERSCRIPT.sub(lambda match: "^{" + match[0].translate(_SUPERSCRIPTS) + "}", text)
    return _SYMBOL.sub(lambda match: _SYMBOLS[match[0]], text)


def _vulgar(match: re.Match[str]) -> str:
    numerator, denominator = unicodedata.normalize("NFKC", match[2]).split("\u2044")
    return f"{match[1]} {numerator}/{denominator}" if match[1] else f"{numerator}/{denominator}"


def balanced(text: str, start: int) -> int | None:
    """Return the index behind the brace that closes the one at `start`; None if it is never closed. Escaped braces
    are text."""
    depth = 0
    index = start
    while index < len(text):
        if text[index] == "\\":
            index += 2
            continue
        depth += {"{": 1, "}": -1}.get(text[index], 0)
        index += 1
        if depth == 0:
            return index
    return None


def split_top(text: str, separator: str) -> list[str]:
    """Return the parts of a text between separators (a pattern) that stand outside all brackets."""
    parts, depth, start, index = [], 0, 0, 0
    pattern = re.compile(separator)
    while index < len(text):
        if text[index] == "\\" and index + 1 < len(text) and text[index + 1] not in ",;":
            index += 2
            continue
        if depth == 0 and (match := pattern.match(text, index)) and match.end() > index:
            parts.append(text[start:index])
            start = index = match.end()
            continue
        depth += {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}.get(text[index], 0)
        index += 1
    return [*parts, text[start:]]
