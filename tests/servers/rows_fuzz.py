"""Behaviours that the fuzz found (test_fuzz.py), of kinds 1, 2, 3 and 7."""

from __future__ import annotations

from typing import Any

from faults import each_choice, edited, error, wrong
from imitation import Reply, Request
from protocols import Vllm
from rows import Row, Run, on, sampling, solving

_GZIP = b"\x1f\x8b\x08\0\x1b[31m\x07 not text at all\x02\x03"


def listed(body: dict[str, Any]) -> None:
    """Put each choice into a list."""
    body["choices"] = [[choice] for choice in body["choices"]]


def is_printable(run: Run) -> None:
    sentence = run.stderr[run.stderr.index("error: ") :].rstrip("\n")
    assert sentence.isprintable(), repr(sentence)


def by_ids(request: Request) -> bool:
    """Return whether a request goes on from token ids, and is no probe."""
    return isinstance(request.body.get("prompt"), list) and request.body["max_tokens"] > 1


def logprobs(values: Any) -> Any:
    """Return the fields of a choice whose log-probabilities are these."""
    return each_choice(logprobs={"tokens": ["a"], "token_logprobs": values})


FUZZED = [
    Row("every choice is a list", 3, edited(listed), code=2, says=("cannot be read",), patience=8, again="goes on"),
    Row("an error in colours", 7, error(428, "first\n\x1b[31msecond\x07"), code=2, check=is_printable),
    Row("bytes of a packed file", 7, on(sampling, wrong(200, _GZIP)), code=2, check=is_printable, patience=8),
    Row(
        "a finish reason in colours", 7, each_choice(finish_reason="\x1b[31m" + "x" * 9000), code=2, check=is_printable
    ),
    Row(
        "one problem is gone",
        2,
        on(lambda request: request.item == 1, lambda *_: Reply(b"", 410)),
        ended=2,
        says=("searches them again",),
        again="goes on",
    ),
    Row(
        "a limit that asks for five minutes each time",
        1,
        on(sampling, error(429, "slow down", {"Retry-After": "300"})),
        command="judge",
        hasten=200,
        code=2,
        says=("used up for 1[05] minutes",),
        again="goes on",
    ),
    Row(
        "a status below 200 and no other one",
        3,
        on(solving, wrong(199, {"error": {"message": "wait"}})),
        settings={"backend": {"timeout": 10}},
        hasten=40,
        patience=9,
        code=2,
        says=("no reply within the timeout",),
        again="goes on",
    ),
    *(
        Row(f"log-probabilities are {name}", 3, on(by_ids, logprobs(values)), protocol=Vllm, code=2, again="goes on")
        for name, values in {"lists": [[-0.5]], "texts": ["-0.5"], "beyond a float": [-(10**400)]}.items()
    ),
    *(
        Row(f"token ids are {name}", 3, on(by_ids, each_choice(token_ids=ids)), protocol=Vllm, code=2, again="goes on")
        for name, ids in {"texts": ["7"], "negative": [-1], "beyond 64 bits": [2**70]}.items()
    ),
]
