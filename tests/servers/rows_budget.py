"""Kind 8: a budget, with replies that do not say their cost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from faults import edited, usage
from imitation import Twist, plain
from rows import Row, Run

_TOKENS = {"budget": {"tokens": 2000}}
_MONEY = {"budget": {"money": 0.002}, "prices": {"m": {"prompt": 1.0, "completion": 1.0}}}
_ITEMS = 30  # far more than the budget is for: a problem has 6 requests of some 150 tokens


def stops_early(run: Run) -> None:
    samples = run.server.asked(lambda request: request.item is not None)
    assert len(samples) < 60, f"{len(samples)} requests were made with a budget for some 20"


_without = edited(lambda body: body.pop("usage"))
_twists: dict[str, Twist] = {
    "counted": plain,
    "not counted": _without,
    "counted as null": usage(None),
    "with null counts": usage({"prompt_tokens": None, "completion_tokens": None, "total_tokens": None}),
    "counted as 0": usage({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}),
    "with the sum alone": usage(lambda right: {"total_tokens": right["total_tokens"]}),
    "with other names": usage(
        lambda right: {"input_tokens": right["prompt_tokens"], "output_tokens": right["completion_tokens"]}
    ),
}


def rows(settings: dict[str, Any], unit: str, names: Callable[[str], bool]) -> list[Row]:
    """Return the rows of one kind of budget."""
    return [
        Row(
            f"{unit}, {name}",
            8,
            twist,
            items=_ITEMS,
            settings=settings,
            code=2,
            says=("(?i)budget",),
            check=stops_early,
        )
        for name, twist in _twists.items()
        if names(name)
    ]


BUDGETS = [
    *rows(_TOKENS, "tokens", lambda _: True),
    *rows(_MONEY, "money", lambda name: name in ("counted", "not counted", "counted as 0")),
]
