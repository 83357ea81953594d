"""The process that compares LaTeX expressions by sympy: a script that imports nothing of the package.

It answers each line of its standard input, a JSON list of two expressions, with a line: true or false.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from contextlib import suppress
from typing import Any

_ORPHAN_SECONDS = 20  # after which a comparison ends whose caller was killed
_MEMORY = 4 << 30  # bytes that a comparison may take
_DIGITS = 60
_PLACES = 6


def _serve() -> None:
    """Answer the questions on standard input, a line each, until it ends."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the caller's, who then ends this process
    replies = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # a parser that prints must not be taken for a reply
    sys.path += [folder for folder in json.loads(sys.argv[1]) if folder not in sys.path]
    _prepare()
    print("ready", file=replies, flush=True)
    for line in sys.stdin:
        if hasattr(signal, "alarm"):
            signal.alarm(_ORPHAN_SECONDS)
        print(json.dumps(_compare(*json.loads(line))), file=replies, flush=True)
        if hasattr(signal, "alarm"):
            signal.alarm(0)


def _prepare() -> None:
    """Load sympy before the clock of the first comparison runs, then bound the memory where that can be done."""
    import logging

    import latex2sympy2_extended  # noqa: F401

    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    with suppress(ImportError, ValueError, OSError):
        import resource

        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        limit = _MEMORY if hard == resource.RLIM_INFINITY else min(hard, _MEMORY)
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


def _compare(first: str, second: str) -> bool:
    from latex2sympy2_extended import latex2sympy

    try:
        a, b = latex2sympy(first), latex2sympy(second)
        return _equal(a, b, _decimal_places(first, second))
    except Exception:  # noqa: BLE001 - parsers and sympy raise whatever they meet: nothing is the same then
        return False


def _decimal_places(*texts: str) -> int | None:
    """Places of a long decimal among the texts: it may stand for a value that rounds to it."""
    for text in texts:
        _, point, places = text.strip().rpartition(".")
        if point and places.isdigit() and len(places) >= _PLACES:
            return len(places)
    return None


def _equal(a: Any, b: Any, places: int | None) -> bool:
    import sympy

    if isinstance(a, sympy.Equality) and isinstance(b, sympy.Equality):
        return _same_equation(a, b)
    if isinstance(a, sympy.Equality) or isinstance(b, sympy.Equality):
        equation, value = (a, b) if isinstance(a, sympy.Equality) else (b, a)
        return bool(equation.lhs.is_Symbol) and _equal(equation.rhs, value, places)
    if isinstance(a, sympy.MatrixBase) and isinstance(b, sympy.MatrixBase):
        return a.shape == b.shape and all(_equal(x, y, places) for x, y in zip(a, b, strict=True))
    if isinstance(a, sympy.Interval) and isinstance(b, sympy.Interval):
        ends = (a.left_open, a.right_open) == (b.left_open, b.right_open)
        return ends and _equal(a.start, b.start, places) and _equal(a.end, b.end, places)
    if isinstance(a, sympy.Expr) and isinstance(b, sympy.Expr):
        return _same_expression(a, b, places)
    return bool(a == b)


def _same_equation(a: Any, b: Any) -> bool:
    import sympy

    residual, twin = a.lhs - a.rhs, b.lhs - b.rhs
    ratio = sympy.simplify(residual / twin)
    return bool(ratio.is_number and ratio != 0)


def _same_expression(a: Any, b: Any, places: int | None) -> bool:
    import sympy

    a, b = (sympy.nsimplify(side.doit(), rational=True) for side in (a, b))
    difference = a - b
    if difference == 0:
        return True
    if difference.free_symbols:
        return bool(sympy.simplify(sympy.expand(difference)) == 0)
    gap = abs(sympy.N(difference, _DIGITS, maxn=1000))
    size = max(abs(sympy.N(side, _DIGITS, maxn=1000)) for side in (a, b))
    if not gap.is_number or not size.is_number:
        return False
    return bool(gap <= size * sympy.Float(10) ** -45) or (
        places is not None and bool(gap <= sympy.Rational(1, 2 * 10**places))
    )


if __name__ == "__main__":
    _serve()
