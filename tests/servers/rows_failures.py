"""Kind 2: failed requests, which must not become results."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

from faults import drop, each_choice, edited, error, until, wrong
from imitation import Reply, Twist, plain
from rows import Row, Run, judging, on, solving

_CREDITS = "Insufficient credits. Add more at https://example.org/credits"
_broke = error(402, _CREDITS, code=402)
_flagged = error(403, "Your chosen model requires moderation and your input was flagged", code=403)


def of_item(number: int, twist: Twist) -> Twist:
    """Return the twist of all requests about one problem."""
    return on(lambda request: request.item == number, twist)


def after(count: int, twist: Twist) -> Twist:
    """Return the twist of all samples after the first `count`."""
    return lambda request, reply: twist(request, reply) if request.samples and request.number >= count else reply


def one_order(twist: Twist) -> Twist:
    """Return the twist of the comparisons that show the bad step first."""
    return on(lambda request: request.judges and "proposal_A>\nStep 1: a bad" in request.text.replace("> ", ">"), twist)


def filter_first(body: dict[str, object]) -> None:
    """Let a content filter take the first of several choices away."""
    choices = copy.deepcopy(body["choices"])
    assert isinstance(choices, list)
    if len(choices) > 1:
        choices[0]["message"]["content"] = None
        choices[0]["finish_reason"] = "content_filter"
    body["choices"] = choices


def refuse_first(body: dict[str, object]) -> None:
    """Let the model refuse in the first of several choices."""
    choices = copy.deepcopy(body["choices"])
    assert isinstance(choices, list)
    if len(choices) > 1:
        choices[0]["message"] |= {"content": None, "refusal": "I cannot help with that."}
    body["choices"] = choices


def no_rate_of_failures(run: Run) -> None:
    assert "0.0%" not in run.words, run.words


def rate_of_answers(run: Run) -> None:
    right = [line for line in run.stdout.splitlines() if "right (in both positions)" in line]
    assert not right or "100" in right[0], right
    assert "error" in run.words or "failed" in run.words, run.words


def only_one_failed(run: Run) -> None:
    failed = run.trees("failed")
    assert [tree["problem"]["id"] for tree in failed] == ["p1"], failed
    assert "flagged" in failed[0]["error"] or "filter" in failed[0]["error"], failed[0]["error"]


def is_told(pattern: str) -> Callable[[Run], None]:
    """Return the check that a pattern stands in the words or in the rows that were written."""

    def check(run: Run) -> None:
        files = "".join(path.read_text() for path in run.out.glob("*.json*")) if run.out.exists() else ""
        assert pattern in run.words + files, run.words[-1500:]

    return check


def gone(*_: object) -> Reply:
    return Reply({"error": {"message": "Bad gateway"}}, 502)


_dead_member = {
    "kind": "panel",
    "max_tokens": None,
    "judges": [
        {"kind": "pairwise", "max_tokens": 96},
        {"kind": "pairwise", "max_tokens": 96, "backend": {"kind": "openai", "base_url": "{last_url}", "model": "m"}},
    ],
}
_first_only = {"backend": {"base_url": "{url}"}}

FAILURES = [
    Row(
        "a judge without credits, measured",
        2,
        on(judging, _broke),
        command="measure",
        code=2,
        says=("Insufficient credits",),
        check=no_rate_of_failures,
        again="goes on",
    ),
    Row(
        "a judge without credits, in a search",
        2,
        on(judging, _broke),
        code=2,
        says=("Insufficient credits",),
        again="goes on",
    ),
    Row(
        "a judge without credits, on rows",
        2,
        on(judging, _broke),
        command="judge",
        code=2,
        says=("Insufficient credits",),
        again="goes on",
    ),
    Row(
        "a grading judge without credits, measured",
        2,
        on(judging, _broke),
        command="measure",
        settings={"judge": {"kind": "pointwise"}},
        code=2,
        says=("Insufficient credits",),
        check=no_rate_of_failures,
        again="goes on",
    ),
    Row(
        "credits run out in the middle",
        2,
        after(20, _broke),
        items=10,
        code=2,
        says=("Insufficient credits",),
        again="goes on",
    ),
    Row(
        "errors in half of a measurement",
        2,
        on(lambda request: request.judges and (request.item or 0) % 2 == 0, error(400, "context too long")),
        command="measure",
        items=6,
        code=(0, 2),
        check=rate_of_answers,
        again="goes on",
    ),
    Row(
        "a port closed for 30 s",
        2,
        plain,
        absence=(2, 32),
        items=20,
        ended=20,
    ),
    Row("connections dropped for 30 s", 2, until(32, drop, begin=2), items=20, ended=20),
    Row("a gateway without its server for 30 s", 2, until(32, gone, begin=2), items=20, ended=20),
    Row(
        "a model that loads for a minute",
        2,
        until(60, error(503, "Loading model", type="unavailable_error", code=503)),
        patience=8,
        ended=3,
    ),
    Row(
        "a minute of timeouts of a gateway",
        2,
        until(60, wrong(504, b"<html>504</html>", {"Content-Type": "text/html"}), begin=1),
        patience=8,
        items=8,
        ended=8,
    ),
    Row(
        "one problem always fails",
        2,
        of_item(1, error(500, "CUDA error: device-side assert triggered")),
        patience=8,
        ended=2,
        code=(0, 1, 2),
        again="goes on",
    ),
    Row("one moderated prompt", 2, of_item(1, _flagged), ended=2, check=only_one_failed),
    Row(
        "one prompt that Azure filters",
        2,
        of_item(1, error(400, "The response was filtered due to the prompt", code="content_filter")),
        ended=2,
        check=only_one_failed,
    ),
    Row("one choice of two filtered", 2, on(solving, edited(filter_first)), ended=3),
    Row("one choice of two refused", 2, on(solving, edited(refuse_first)), ended=3),
    Row(
        "a choice that failed beside one that did not",
        2,
        on(
            solving,
            edited(
                lambda body: (
                    body["choices"][0].update({"error": {"code": 502, "message": "upstream"}, "finish_reason": "error"})
                    if len(body["choices"]) > 1
                    else None
                )
            ),
        ),
        ended=3,
    ),
    Row(
        "a panel with a dead member",
        2,
        [plain, _broke],
        settings={**_first_only, "judge": _dead_member},
        command="judge",
        code=(0, 2),
        check=is_told("Insufficient credits"),
    ),
    Row(
        "a panel with a dead member, in a search",
        2,
        [plain, _broke],
        settings={**_first_only, "judge": _dead_member},
        code=(0, 2),
        says=("Insufficient credits",),
    ),
    Row(
        "one of two addresses without a key",
        2,
        [plain, error(401, "Incorrect API key")],
        ended=3,
        says=("Incorrect API key",),
    ),
    Row(
        "one of two addresses without the model",
        2,
        [plain, error(404, "The model m does not exist")],
        ended=3,
        says=("does not exist",),
    ),
    Row("one of two addresses without credits", 2, [plain, _broke], ended=3, says=("Insufficient credits",)),
    Row("one of two addresses fails", 2, [plain, error(500, "boom")], items=6, ended=6),
    Row("one of two addresses drops", 2, [plain, drop], items=6, ended=6),
    Row(
        "half of a comparison failed",
        2,
        one_order(error(400, "the prompt is too long")),
        command="judge",
        code=(0, 2),
        again="goes on",
    ),
    Row(
        "half of a comparison failed, judged again",
        2,
        on(lambda request: request.judges and request.item == 1, error(500, "boom")),
        command="judge trees",
        patience=16,
        code=(0, 1, 2),
        again="goes on",
    ),
    Row(
        "an empty reply once in five",
        2,
        lambda request, reply: replace(reply, body=b"") if request.samples and request.number % 5 == 4 else reply,
        items=10,
        ended=10,
    ),
    Row(
        "every choice filtered",
        2,
        on(solving, each_choice(finish_reason="content_filter")),
        code=2,
        says=("content_filter",),
        again="goes on",
    ),
]
