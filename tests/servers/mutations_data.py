"""Random mutations of a right reply's data: values put, dropped, wrapped, renamed, doubled at any place."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from imitation import Reply

Change = Callable[[Reply], Reply]

_DEEP: Any = []
for _ in range(900):
    _DEEP = [_DEEP]
VALUES: dict[str, Any] = {
    "null": None,
    "true": True,
    "false": False,
    "zero": 0,
    "minus one": -1,
    "a fraction": 0.5,
    "beyond 64 bits": 2**64 + 1,
    "beyond a float": 10**400,
    "NaN": float("nan"),
    "infinity": float("-inf"),
    "an empty text": "",
    "a text": "x",
    "a number as text": "7",
    "blanks": " \n\t ",
    "half a surrogate pair": "\ud83d",
    "the other half": "a\udc00b",
    "a zero character": "a\0b",
    "marks of direction and colour": "\u202e\x1b[31mred[bold]\u2028",
    "200,000 letters": "y" * 200_000,
    "lines": "Step 1: x\n" * 300,
    "an empty list": [],
    "a list of null": [None],
    "a list of lists": [[1], [[]]],
    "an empty object": {},
    "an object": {"a": {"b": [None]}},
    "nested 900 deep": _DEEP,
}


def of_data(rng: random.Random) -> tuple[str, Change]:
    """Return a change of one to three places in a reply's data, after its words."""
    edits = []
    for _ in range(rng.choice((1, 1, 2, 3))):
        edits.append((rng.choice(list(EDITS)), rng.choice(list(VALUES)), rng.random()))
    words = "; ".join(f"{name} with {value} at {place:.3f}" for name, value, place in edits)

    def apply(reply: Reply) -> Reply:
        if isinstance(reply.body, bytes):
            return reply
        root = [copy.deepcopy(reply.body)]
        for name, value, place in edits:
            places = list(_places(root))
            container, key = places[int(place * len(places))]
            EDITS[name](container, key, copy.deepcopy(VALUES[value]))
            root = root or [None]
        return replace(reply, body=json.dumps(root[0]).encode())

    return words, apply


def _places(node: Any) -> Any:
    """Yield each container of a tree with each of its keys."""
    for key in list(node) if isinstance(node, dict) else range(len(node)):
        yield node, key
        if isinstance(node[key], dict | list):
            yield from _places(node[key])


def _drop(container: Any, key: Any, _: Any) -> None:
    del container[key]


def _put(container: Any, key: Any, value: Any) -> None:
    container[key] = value


def _wrap(container: Any, key: Any, _: Any) -> None:
    container[key] = [container[key]]


def _as_text(container: Any, key: Any, _: Any) -> None:
    container[key] = json.dumps(container[key])


def _rename(container: Any, key: Any, _: Any) -> None:
    if isinstance(container, dict):
        container[str(key).upper()] = container.pop(key)


def _add(container: Any, key: Any, value: Any) -> None:
    if isinstance(container, dict):
        container[f"{key}_new"] = value
    else:
        container.insert(key, value)


def _double(container: Any, key: Any, _: Any) -> None:
    if isinstance(container, list):
        container.insert(key, copy.deepcopy(container[key]))
    elif isinstance(container[key], list | str):
        container[key] = container[key] * 2


def _empty(container: Any, key: Any, _: Any) -> None:
    container[key] = type(container[key])()


EDITS: dict[str, Callable[[Any, Any, Any], None]] = {
    "put": _put,
    "put a value": _put,
    "drop": _drop,
    "wrap": _wrap,
    "write as text": _as_text,
    "rename": _rename,
    "add": _add,
    "double": _double,
    "empty": _empty,
}
