"""Kind 5: forms of a reply: thoughts, parts, finish reasons, errors with status 200, streams."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from faults import each_choice, each_message, first, wrong
from imitation import Reply, Request, Twist
from protocols import TrimmingVllm
from rows import Row, Run, on, sampling, solving

_LOGPROB = {"judge": {"kind": "logprob", "max_tokens": None}}
_ROLLOUTS = {"judge": {"kind": "rollouts", "rollouts": 2}}
_THOUGHT = "First, I plan.\nStep 1: perhaps [[B]] or [[A]]\nStep 2: think more\n"


def no_thought(run: Run) -> None:
    """Check that each step is one that the model wrote after its thought."""
    steps = run.steps()
    assert steps
    for step in steps:
        assert re.fullmatch(r"a (good|bad) step: (?!.*think)[^\[\n]*", step), step


def thinking(form: str) -> Twist:
    """Return the twist of a model that writes its thought T before its reply R."""
    return on(
        lambda request: request.item is not None,
        each_message(lambda text: form.replace("{T}", _THOUGHT).replace("{R}", text)),
    )


def typed(reply: Callable[[bytes], bytes], kind: str) -> Twist:
    """Return the twist of a content type, and another way to write the body."""
    return lambda request, right: (
        replace(right, body=reply(json.dumps(right.body).encode()), headers={"Content-Type": kind})
        if request.samples
        else right
    )


def as_stream(body: bytes) -> bytes:
    """Return a reply as server-sent events, one event a word."""
    whole = json.loads(body)
    events = [b": OPENROUTER PROCESSING"]
    for choice in whole["choices"]:
        for word in [*choice["message"]["content"].split(" "), None]:
            delta = {"content": ""} if word is None else {"content": f"{word} ", "role": "assistant"}
            reason = choice["finish_reason"] if word is None else None
            part = {"index": choice["index"], "delta": delta, "finish_reason": reason}
            chunk = {**whole, "object": "chat.completion.chunk", "choices": [part]}
            events.append(b"data: " + json.dumps(chunk).encode())
    return b"\n\n".join([*events, b"data: [DONE]", b""])


def thoughts_use_up(_: Request, reply: Reply) -> Reply:
    """Answer with a thought alone, as reasoning models do for a small limit."""
    for choice in reply.body["choices"]:
        choice |= {
            "finish_reason": "length",
            "message": {"role": "assistant", "content": None, "reasoning": "Hm. " * 30},
        }
    return reply


def thinks_first(_: Request, reply: Reply) -> Reply:
    """Let the first token of every reply open a thought."""
    for choice in reply.body["choices"]:
        top = [{"token": "<think>", "logprob": -0.0001}, {"token": "Okay", "logprob": -9.0}]
        choice["message"]["content"] = "<think>"
        choice["logprobs"] = {"content": [{"token": "<think>", "logprob": -0.0001, "top_logprobs": top}]}
    return reply


def is_told_to_think(run: Run) -> None:
    assert run.code == 2 or run.verdicts() == ["0"] * 3, run.verdicts()


def three_steps(request: Request, reply: Reply) -> Reply:
    """Solve in three steps, one a reply."""
    ends = "half of it" in request.text
    for choice in reply.body["choices"] if request.solves else ():
        step = "Step 3: so \\boxed{2} [[END]]" if ends else "Step 2: half of it"
        choice["message"]["content"] = step
    return reply


def scores_solutions(run: Run) -> None:
    """Check that the rollouts went on after their first step, unless they were refused."""
    asked = run.server.asked(lambda request: request.solves and "half of it" in request.text)
    assert asked or run.code == 2, "one step counts as a solution"


def no_empty_step(run: Run) -> None:
    assert all(run.steps()), run.steps()


def parts(*more: dict[str, Any]) -> Callable[[str], list[dict[str, Any]]]:
    """Return the maker of a content of parts: others, then the text in two."""
    return lambda text: [*more, {"type": "text", "text": text[:10]}, {"type": "text", "text": text[10:]}]


def without_reason(request: Request, reply: Reply) -> Reply:
    """Leave the finish reason out."""
    for choice in reply.body.get("choices", ()) if request.samples else ():
        del choice["finish_reason"]
    return reply


_harmony = "<|channel|>analysis<|message|>{T}<|end|><|start|>assistant<|channel|>final<|message|>{R}"
_cohere = "<|START_THINKING|>{T}<|END_THINKING|><|START_RESPONSE|>{R}<|END_RESPONSE|>"
_thoughts = {
    "in think tags": "<think>\n{T}</think>\n\n{R}",
    "with a closing tag alone": "{T}</think>\n\n{R}",
    "in THINK brackets": "[THINK]{T}[/THINK]{R}",
    "in thought tags": "<thought>\n{T}</thought>\n{R}",
    "in thinking tags": "<thinking>{T}</thinking>\n\n{R}",
    "in reasoning tags": "<reasoning>\n{T}</reasoning>\n{R}",
    "in harmony channels": _harmony,
    "in Cohere's tokens": _cohere,
    "in Seed's tags": "<seed:think>{T}</seed:think>{R}",
    "that is empty": "<think>\n\n</think>\n\n{R}",
}
_ends = ("eos", "eos_token", "end_turn", "stop_sequence", "STOP", "completed", "", None)
_mistral = {"type": "thinking", "thinking": [{"type": "text", "text": _THOUGHT}]}
_upstream = {"error": {"code": 502, "message": "Upstream provider timed out"}}
_broke = {"error": {"code": 402, "message": "Insufficient credits"}}

FORMS = [
    *(Row(f"a thought {name}", 5, thinking(form), ended=3, check=no_thought) for name, form in _thoughts.items()),
    *(
        Row(f"a judge's thought {name}", 5, thinking(form), command="judge", verdicts=("0",) * 3)
        for name, form in _thoughts.items()
    ),
    Row(
        "a judge's thought that was cut off",
        5,
        on(lambda request: request.judges, each_message(lambda text: f"<think>\n{_THOUGHT}so [[A]]")),
        command="judge",
        verdicts=("unparsed",) * 3,
    ),
    Row(
        "reasoning in a field of its own",
        5,
        each_message(str, reasoning_content=_THOUGHT, reasoning=_THOUGHT),
        ended=3,
        check=no_thought,
    ),
    Row("content in parts", 5, each_message(parts()), ended=3, check=no_thought),
    Row("content in parts, with a thought", 5, each_message(parts(_mistral)), ended=3, check=no_thought),
    Row(
        "reasoning that uses up max_tokens",
        5,
        on(solving, thoughts_use_up),
        code=2,
        says=("max_tokens",),
        again="goes on",
    ),
    Row(
        "a judge's reasoning that uses up max_tokens",
        5,
        on(lambda request: request.judges, thoughts_use_up),
        command="judge",
        code=(0, 2),
        says=("max_tokens",),
    ),
    *(
        Row(f"finish reason {reason!r}".replace("'", ""), 5, each_choice(finish_reason=reason), ended=3)
        for reason in _ends
    ),
    Row("no finish reason", 5, without_reason, ended=3),
    *(
        Row(
            f"finish reason {reason}",
            5,
            on(lambda request: request.judges, each_choice(finish_reason=reason)),
            command="judge",
            verdicts=("unparsed",) * 3,
        )
        for reason in ("max_tokens", "MAX_TOKENS", "max_output_tokens", "model_length")
    ),
    Row(
        "finish reason error",
        5,
        on(solving, each_choice(finish_reason="error")),
        code=2,
        says=("error",),
        patience=8,
        again="goes on",
    ),
    Row(
        "finish reason of a busy server",
        5,
        first(6, each_choice(finish_reason="insufficient_system_resource")),
        ended=3,
    ),
    Row("a passing error with status 200", 5, first(8, wrong(200, _upstream)), ended=3),
    Row(
        "an error with status 200",
        5,
        on(sampling, wrong(200, _broke)),
        code=2,
        says=("Insufficient credits",),
        again="goes on",
    ),
    Row(
        "an error with status 200 for the judge",
        5,
        on(lambda request: request.judges, wrong(200, _broke)),
        command="judge",
        code=2,
        says=("Insufficient credits",),
        again="goes on",
    ),
    Row(
        "an error text with status 200",
        5,
        on(sampling, wrong(200, {"error": "model overloaded, come back"})),
        code=2,
        patience=8,
        says=("overloaded",),
        again="goes on",
    ),
    Row(
        "an error in a choice",
        5,
        on(solving, each_choice(error=_upstream["error"], finish_reason="error")),
        code=2,
        patience=8,
        says=("Upstream provider",),
    ),
    Row("JSON as text/plain", 5, typed(bytes, "text/plain; charset=utf-8"), ended=3),
    Row("JSON as bytes", 5, typed(bytes, "application/octet-stream"), ended=3),
    Row("JSON without a type", 5, typed(bytes, ""), ended=3),
    Row("JSON as text/html", 5, typed(bytes, "text/html"), ended=3),
    Row("JSON after blank lines", 5, typed(lambda body: b"\n\n   \n" + body, "application/json"), ended=3),
    Row("JSON after a byte order mark", 5, typed(lambda body: b"\xef\xbb\xbf" + body, "application/json"), ended=3),
    Row("a stream although nobody asked", 5, typed(as_stream, "text/event-stream"), ended=3),
    Row("a stream that calls itself JSON", 5, typed(as_stream, "application/json"), ended=3),
    Row(
        "half a turn with a template that trims",
        5,
        protocol=TrimmingVllm,
        settings={"generator": {"boundary": "line"}},
        ended=3,
        check=no_empty_step,
    ),
    Row(
        "a logprob judge that thinks first",
        5,
        on(lambda request: "logprobs" in request.body and request.judges, thinks_first),
        command="judge",
        settings=_LOGPROB,
        code=(0, 2),
        check=is_told_to_think,
    ),
    Row(
        "rollouts on a hosted API",
        5,
        three_steps,
        command="judge",
        settings=_ROLLOUTS,
        code=(0, 2),
        check=scores_solutions,
    ),
]
