"""Ask a chat API not to think, in the way that it takes: found with a few short requests before the first real one."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from stepagent.backends.endpoint import Endpoint, turns
from stepagent.backends.probe import LIMITS, PROBE
from stepagent.backends.replies import count
from stepagent.backends.thoughts import SWITCHES, split
from stepagent.errors import BackendError, ConfigError, TransientError

_WAYS: tuple[Mapping[str, Any], ...] = (
    {"chat_template_kwargs": SWITCHES["off"]},  # vLLM, SGLang, llama.cpp
    {"reasoning_effort": "none"},  # OpenAI, Gemini, Ollama
    {"thinking": {"type": "disabled"}},  # DeepSeek, Anthropic, Zhipu
    {"reasoning": {"enabled": False}},  # OpenRouter
    {"enable_thinking": False},  # Qwen's own API
    {"reasoning_effort": "minimal"},
)


async def silence(endpoint: Endpoint, limit: str) -> Mapping[str, Any]:
    """Return the fields of a request with which the model does not think; none if it does not think without them.
    `limit` is the name of the limit of sampled tokens. Raises ConfigError if it thinks whatever it is asked."""
    if not await _thinks(endpoint, limit, {}):
        return {}
    for way in _WAYS:
        try:
            if not await _thinks(endpoint, limit, way):
                logging.getLogger("stepagent").warning(
                    "generator.thinking: off: %s is asked not to think, by %s", endpoint.url, " ".join(way)
                )
                return way
        except TransientError:
            raise
        except BackendError:
            continue
    names = ", ".join(dict.fromkeys(name for way in _WAYS for name in way))
    raise ConfigError(
        f"generator.thinking: {endpoint.url} thinks whatever it is asked (by {names}); write thinking: hidden"
    )


async def _thinks(endpoint: Endpoint, limit: str, way: Mapping[str, Any]) -> bool:
    """Return whether a reply shows a thought: in its text, in a field of its own, in its usage, or by a limit used up
    without a word. Raises BackendError."""
    body = {"messages": turns(PROBE), limit: LIMITS[-1], **way}
    (choice,), reply = await endpoint.choices("chat/completions", body)
    message, usage = choice.get("message") or {}, reply.get("usage")
    content = message.get("content")
    details = usage.get("completion_tokens_details") if isinstance(usage, Mapping) else None
    if message.get("reasoning_content") or message.get("reasoning") or count(details, "reasoning_tokens"):
        return True
    if isinstance(content, list):
        return any(isinstance(part, Mapping) and part.get("type") in ("thinking", "reasoning") for part in content)
    if not content:
        return bool(choice.get("finish_reason") == "length")
    return bool(split(str(content))[0].strip())
