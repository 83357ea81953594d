"""Kind 4: abilities that differ for the values of a run, addresses and names of all forms, and further fields."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from faults import refusing
from imitation import Reply, Request, Twist
from protocols import Protocol
from rows import Row, Run

_UNSUPPORTED = "Unsupported value: '{}' does not support {} with this model. Only the default (1) value is supported."
_OUT_OF_ROOM = "Could not finish the message because max_tokens or model output limit was reached."
_LOGPROB = {"kind": "logprob", "max_tokens": None}


def unless(name: str, holds: Callable[[Any], bool], message: str, status: int = 400, **fields: Any) -> Twist:
    """Return the twist of a server that refuses a parameter for whose value `holds` is false."""
    return refusing(lambda body: message if name in body and not holds(body[name]) else None, status, **fields)


def default_only(name: str) -> Twist:
    """Return the twist of a reasoning model, which takes no temperature (or top_p) but 1."""
    return refusing(
        lambda body: _UNSUPPORTED.format(name, body[name]) if body.get(name, 1) != 1 else None,
        param=name,
        code="unsupported_value",
    )


def both_defaults(request: Request, reply: Reply) -> Reply:
    """Take neither a temperature nor a top_p but 1."""
    return default_only("top_p")(request, default_only("temperature")(request, reply))


def forgets_the_limit(request: Request, reply: Reply) -> Reply:
    """Take max_completion_tokens and ignore it, as older Ollamas do."""
    if not request.samples or "max_tokens" in request.body:
        return reply
    for choice in reply.body["choices"]:
        words = f"{choice['message']['content'].replace('[[END]]', '').partition(chr(10))[0]} " + "word " * 3000
        choice["message"]["content"], choice["finish_reason"] = words, "stop"
    return reply


def judges_at_zero(run: Run) -> None:
    asked = run.server.asked(lambda request: request.judges)
    assert asked
    assert {request.body.get("temperature") for request in asked} == {0.0}, [request.body for request in asked[:1]]


def no_step_is_long(run: Run) -> None:
    assert run.steps()
    assert max(len(step.split()) for step in run.steps()) <= 64


def carries(name: str, value: Any) -> Callable[[Run], None]:
    """Return the check that every request of the run holds a field or a header."""

    def check(run: Run) -> None:
        asked = run.server.asked(lambda request: request.item is not None)
        assert asked
        assert all(value in (request.body.get(name), request.headers.get(name)) for request in asked)

    return check


def listing(*names: str) -> Callable[[], Protocol]:
    """Return the protocol of a server that lists these models."""

    class Listing(Protocol):
        models = names

    return Listing


def bounded(request: Request, reply: Reply) -> Reply:
    """Ask for no more tokens than the model has, as OpenAI does."""
    limit = request.body.get("max_completion_tokens") or request.body.get("max_tokens") or 0
    if request.samples and limit > 50:
        message = f"max_tokens is too large: {limit}. This model supports at most 50 completion tokens."
        return Reply({"error": {"message": message, "param": "max_tokens", "code": "invalid_value"}}, 400)
    return reply


def spends_thoughts(request: Request, reply: Reply) -> Reply:
    """Refuse limits that a thought uses up."""
    limit = request.body.get("max_completion_tokens") or request.body.get("max_tokens") or 64
    return Reply({"error": {"message": _OUT_OF_ROOM}}, 400) if request.samples and limit < 32 else reply


_one_of_two = refusing(
    lambda body: (
        "`temperature` and `top_p` cannot both be specified for this model. Please use only one."
        if {"temperature", "top_p"} <= body.keys()
        else None
    )
)
_extra = {"chat_template_kwargs": {"enable_thinking": False}}
_bases = {
    "Gemini": "/v1beta/openai",
    "Zhipu": "/api/paas/v4",
    "Azure": "/openai/deployments/gpt",
    "Volcengine": "/api/v3",
    "Groq": "/openai/v1",
    "Perplexity": "",
}
_names = {
    "OpenRouter's variant": ("m:nitro", ("m",)),
    "Ollama's short": ("llama3", ("llama3:latest",)),
    "Gemini's short": ("m", ("models/m",)),
    "unlisted": ("m-preview", ("other", "another")),
    "an empty list's": ("m", ()),
}


def all_have_version(run: Run) -> None:
    assert all("api-version=1" in request.path for request in run.server.asked())


ABILITIES = [
    Row("only temperature 1", 4, default_only("temperature"), ended=3, says=("temperature",)),
    Row("only temperature 1 and top_p 1", 4, both_defaults, ended=3, says=("temperature",)),
    Row("temperature and top_p not both", 4, _one_of_two, ended=3, check=judges_at_zero),
    Row(
        "top_p below 1",
        4,
        unless("top_p", lambda value: 0 < value < 1, "`top_p` must be > 0.0 and < 1.0", 422),
        ended=3,
    ),
    Row(
        "temperature above 0",
        4,
        unless("temperature", lambda value: value > 0, "`temperature` must be strictly positive", 422),
        ended=3,
        says=("temperature",),
    ),
    Row(
        "no top_p at all", 4, unless("top_p", lambda _: False, "top_p is not supported"), ended=3, check=judges_at_zero
    ),
    Row("max_completion_tokens ignored", 4, forgets_the_limit, ended=3, check=no_step_is_long),
    Row(
        "max_completion_tokens refused",
        4,
        unless("max_completion_tokens", lambda _: False, "Extra inputs are not permitted", 422),
        ended=3,
    ),
    Row(
        "max_tokens refused", 4, unless("max_tokens", lambda _: False, "Use 'max_completion_tokens' instead."), ended=3
    ),
    Row("max_tokens bounded", 4, bounded, ended=3, says=("max_tokens|at most 50",)),
    Row("a probe too short for a thought", 4, spends_thoughts, ended=3),
    Row(
        "n at most 4",
        4,
        unless("n", lambda value: value <= 4, "n must be at most 4"),
        settings={"search": {"width": 6}},
        ended=3,
    ),
    Row("n at most 1", 4, unless("n", lambda value: value == 1, "n > 1 is not supported"), ended=3),
    Row(
        "n ignored",
        4,
        lambda request, reply: (
            Reply({**reply.body, "choices": reply.body["choices"][:1]}) if request.samples else reply
        ),
        ended=3,
    ),
    Row("seed refused", 4, unless("seed", lambda _: False, "Extra inputs are not permitted: seed", 422), ended=3),
    Row("a seed below 2**31", 4, unless("seed", lambda value: value < 2**31, "seed must be an int32"), ended=3),
    Row(
        "top_logprobs at most 5",
        4,
        unless("top_logprobs", lambda value: value <= 5, "top_logprobs must be at most 5"),
        settings={"judge": _LOGPROB},
        command="judge",
        verdicts=("0",) * 3,
    ),
    Row(
        "logprobs only with temperature 1",
        4,
        refusing(
            lambda body: (
                "logprobs needs temperature 1" if body.get("logprobs") and body.get("temperature", 1) != 1 else None
            )
        ),
        settings={"judge": _LOGPROB},
        command="judge",
        code=(0, 2),
    ),
    Row("stop refused", 4, unless("stop", lambda _: False, "Unsupported parameter: 'stop'"), ended=3),
    *(
        Row(f"the base of {name}", 4, base=base, settings={"backend": {"base_url": "{url}"}}, ended=3)
        for name, base in _bases.items()
    ),
    Row("a base with a slash at its end", 4, settings={"backend": {"base_url": "{url}/"}}, ended=3),
    Row(
        "a base with a version in its query",
        4,
        settings={"backend": {"base_url": "{url}?api-version=1"}},
        ended=3,
        check=all_have_version,
    ),
    *(
        Row(f"a name, {name}", 4, protocol=listing(*names), settings={"backend": {"model": model}}, ended=3)
        for name, (model, names) in _names.items()
    ),
    Row(
        "further fields",
        4,
        settings={"backend": {"extra_body": _extra}},
        ended=3,
        check=carries("chat_template_kwargs", _extra["chat_template_kwargs"]),
    ),
    Row(
        "a reasoning effort",
        4,
        settings={"backend": {"extra_body": {"reasoning_effort": "low"}}},
        ended=3,
        check=carries("reasoning_effort", "low"),
    ),
    Row(
        "further headers",
        4,
        settings={"backend": {"headers": {"HTTP-Referer": "https://example.org"}}},
        ended=3,
        check=carries("http-referer", "https://example.org"),
    ),
]
