"""Abilities of an endpoint, found with a few short requests before the first real one."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

from stepagent.backends.endpoint import Endpoint, turns
from stepagent.backends.replies import count, one_line
from stepagent.errors import BackendError, ConfigError, RefusedError, TransientError
from stepagent.types import Message

PROBE = (Message("user", "Is 7 < 11?"),)
_OPTIONAL: dict[str, dict[str, Any]] = {
    "n": {"n": 2},
    "seed": {"seed": 1},
    "logprobs": {"logprobs": True, "top_logprobs": 2},
}
Answers = dict[str, dict[str, Any] | None]
"""The first choices of the answers so far, by request: a probe that fails midway goes on from there."""
LIMITS = (16, 1024)  # tokens; a reasoning model may take no limit that its thought would use up
_CONTINUE = {"continue_final_message": True, "add_generation_prompt": False}


@dataclass(frozen=True, slots=True)
class Abilities:
    """Abilities of an endpoint: the way to continue a half-written reply, the optional parameters that it
    takes, and its name for the limit of sampled tokens.

    ids      token ids in and out (vLLM): a step continues exactly the tokens sampled before it
    prefill  a chat whose last turn is the half-written reply, as text
    restate  a chat that shows the half-written reply and asks for the next step
    """

    way: Literal["ids", "prefill", "restate"]
    takes: frozenset[str] = frozenset(_OPTIONAL)
    limit: Literal["max_completion_tokens", "max_tokens"] = "max_completion_tokens"


async def probe(endpoint: Endpoint, answers: Answers) -> Abilities:
    """Return the abilities of `endpoint`. Raises ConfigError for an unknown model or a wrong key,
    TransientError where asking again may help, with the same `answers`."""
    if await _gives_ids(endpoint):
        return Abilities("ids")
    limit = await _limit(endpoint, answers)
    short: dict[str, Any] = {limit: 16}
    takes = frozenset([name for name, body in _OPTIONAL.items() if await _chat(endpoint, answers, {**short, **body})])
    way: Literal["prefill", "restate"] = "prefill" if await _continues(endpoint, answers, limit) else "restate"
    return Abilities(way, takes, limit)


async def _limit(endpoint: Endpoint, answers: Answers) -> Literal["max_completion_tokens", "max_tokens"]:
    """Return the endpoint's name for the limit of sampled tokens: one that it takes and keeps to. Raises ConfigError,
    with the endpoint's words and the names that it serves, if it answers no chat request."""
    refusal = ""
    names: tuple[Literal["max_completion_tokens", "max_tokens"], ...] = ("max_completion_tokens", "max_tokens")
    try:
        for tokens in LIMITS:
            for name in names:
                try:
                    if (choice := await _chat(endpoint, answers, {name: tokens}, strict=True)) and _keeps(
                        choice, tokens
                    ):
                        return name
                except BackendError as error:
                    if isinstance(error, TransientError):
                        raise
                    refusal = refusal or str(error)
    except RefusedError as error:
        raise RefusedError(f"{error}{await _served(endpoint)}") from None
    if refusal:
        raise ConfigError(f"{refusal}{await _served(endpoint)}")
    return "max_tokens"


def _keeps(choice: dict[str, Any], tokens: int) -> bool:
    """Return whether a reply keeps to its limit, as far as its words show: a token is no more than a few words."""
    content = (choice.get("message") or {}).get("content")
    return not isinstance(content, str) or len(content.split()) <= 2 * tokens


async def _served(endpoint: Endpoint) -> str:
    """Return the end of a sentence with the names that the endpoint serves, if the asked one is not among them."""
    models = await endpoint.serves()
    if not models or endpoint.model in models:
        return ""
    return f"; it does not serve '{endpoint.model}'; it has {one_line(', '.join(models[:8]))}"


async def _gives_ids(endpoint: Endpoint) -> bool:
    """Return whether the endpoint tokenises chats, and continues token ids with token ids."""
    try:
        tokens = (await endpoint.post("/tokenize", {"messages": turns(PROBE)}))["tokens"]
        request = {"prompt": tokens, "max_tokens": 1, "n": 2, "logprobs": 1, "return_token_ids": True}
        choices, _ = await endpoint.choices("completions", request)
        return all(choice.get("token_ids") and choice.get("logprobs") for choice in choices)
    except TransientError as error:
        if error.status is None or error.status in (408, 429, 502, 503, 504):
            raise  # asking again may help
        return False
    except (ConfigError, BackendError, KeyError, TypeError, AttributeError):
        return False


async def _chat(
    endpoint: Endpoint, answers: Answers, body: dict[str, Any], *, strict: bool = False
) -> dict[str, Any] | None:
    """Return the first choice, with the usage in it; None if the parameters are ignored or (unless `strict`, which
    raises BackendError then) refused."""
    request = {"messages": turns(PROBE), **body}
    key = json.dumps(request)
    if key in answers:
        return answers[key]
    try:
        reply = await endpoint.post("chat/completions", request)
    except BackendError as error:
        if strict or isinstance(error, TransientError):
            raise
        return None
    try:
        choices = reply["choices"]
        if len(choices) != body.get("n", 1) or ("logprobs" in body and not choices[0].get("logprobs")):
            answers[key] = None
        else:
            answers[key] = {**choices[0], "usage": reply.get("usage") or {}}
    except (KeyError, TypeError, IndexError) as error:
        raise endpoint.unreadable(error) from None
    return answers[key]


async def _continues(endpoint: Endpoint, answers: Answers, limit: str) -> bool:
    """Return whether the endpoint continues a half-written reply as it stands, and names the stop string that ended
    it."""
    # Servers that do not know the parameters often ignore them, so success alone proves nothing. A continued
    # turn has a shorter prompt than the same turn closed: no end of turn, no opening of the next one.

    async def prompt_tokens(text: str, body: dict[str, Any]) -> int | None:
        half_reply = {"messages": turns((*PROBE, Message("assistant", text))), limit: 16, **body}
        choice = await _chat(endpoint, answers, half_reply)
        # Without `stop_reason` a step that a stop string ended looks like the end of the solution.
        return (
            None
            if choice is None or (body and "stop_reason" not in choice)
            else count(choice["usage"], "prompt_tokens")
        )

    stop = {**_CONTINUE, "stop": ["\n"], "include_stop_str_in_output": True}
    text = "Yes, since 11 is more"
    closed, continued = await prompt_tokens(text, {}), await prompt_tokens(text, stop)
    if closed is None or continued is None or continued >= closed:
        return False
    # Some templates trim a turn's text: the line break that ended a step would be sampled again, and end the next one.
    line = await prompt_tokens(f"{text}\n", stop)
    return line is not None and line > continued
