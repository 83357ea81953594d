"""Kind 5: the three places of a thought (generator.thinking), with token ids and on chat APIs."""

from __future__ import annotations

from typing import Any

from faults import each_message
from imitation import Twist
from protocols import ThinkingVllm
from rows import Row, Run
from rows_forms import no_thought


def thinks_unless(field: str, value: Any) -> Twist:
    """Return the twist of a model that thinks, in a field of its own, unless a field of the request says no."""
    think = each_message(str, reasoning_content="Hm. Step 2: hm")
    return lambda request, reply: reply if request.body.get(field) == value else think(request, reply)


def is_silent(run: Run) -> None:
    """Check that the model was told not to think whenever it was asked for a step."""
    no_thought(run)
    requests = run.server.asked(lambda request: request.solves)
    assert requests
    assert all(request.body.get("reasoning_effort") == "none" for request in requests)


def searches_the_thought(run: Run) -> None:
    """Check that the thought is a step, and is continued by those of the solution."""
    first_steps = [tree["nodes"][0]["candidate"]["step"]["content"] for tree in run.rows("trees")]
    assert [step.startswith("<think>\nFirst, I plan.") for step in first_steps] == [True] * 3
    assert any("boxed" in step for step in run.steps())


THINKING = [
    Row(
        "a thinking model by token ids",
        5,
        protocol=ThinkingVllm,
        settings={"generator": {"max_tokens": 400}, "judge": {"max_tokens": 400}},
        ended=3,
        check=no_thought,
    ),
    Row(
        "a thinking model by token ids, asked not to think",
        5,
        protocol=ThinkingVllm,
        settings={"generator": {"thinking": "off"}, "judge": {"max_tokens": 400}},
        ended=3,
        check=no_thought,
    ),
    Row(
        "the steps of a thought by token ids",
        5,
        protocol=ThinkingVllm,
        settings={
            "generator": {"thinking": "steps", "boundary": "blank_line", "max_tokens": 400},
            "judge": {"max_tokens": 400},
        },
        ended=3,
        check=searches_the_thought,
    ),
    Row(
        "the steps of a thought on a chat API",
        5,
        settings={"generator": {"thinking": "steps"}},
        code=2,
        says=("steps of a thought need token ids",),
    ),
    Row(
        "a thinking API that can be asked not to",
        5,
        thinks_unless("reasoning_effort", "none"),
        settings={"generator": {"thinking": "off"}},
        ended=3,
        says=("asked not to think, by reasoning_effort",),
        check=is_silent,
    ),
    Row(
        "an API that thinks whatever it is asked",
        5,
        thinks_unless("reasoning_effort", "never"),
        settings={"generator": {"thinking": "off"}},
        code=2,
        says=("thinks whatever it is asked",),
    ),
]
