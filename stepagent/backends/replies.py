"""Read the reply of an HTTP server as JSON, whatever it says of its type, and its own words where it refuses."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

_WORDS = ("message", "detail", "error", "errors", "error_message", "msg", "reason", "title", "description")
_LONGEST = 300  # characters of a server's words


def read_reply(content: bytes) -> Any:
    """Return the JSON value of a reply's body; the parts of a stream of events are joined. Raises ValueError."""
    text = content.decode("utf-8", "replace").lstrip("\ufeff \t\r\n")
    if text.startswith(("data:", "event:", ":")):
        return _joined([_parsed(line[5:]) for line in text.splitlines() if line.startswith("data:") and "{" in line])
    return _parsed(text)


def server_words(content: bytes) -> str:
    """Return a server's own words from the body of a refusal, in one line."""
    text = content.decode("utf-8", "replace").strip()
    try:
        sentence = " ".join(dict.fromkeys(_words(_parsed(text))))
    except ValueError:
        sentence = re.sub(r"<(style|script)\b.*?</\1>|<[^>]*>", " ", text, flags=re.DOTALL | re.IGNORECASE)
    return one_line(sentence or text)


def one_line(text: str) -> str:
    """Return a server's text as it may stand in a sentence: one line, not too long, nothing that a terminal obeys."""
    visible = "".join(letter if letter.isprintable() else " " for letter in text[: 20 * _LONGEST])
    return " ".join(visible.split())[:_LONGEST]


def count(usage: object, *names: str) -> int | None:
    """Return the number of tokens that a reply's usage states under one of these names; None if it states none."""
    if not isinstance(usage, Mapping):
        return None
    for name in names:
        value = usage.get(name)
        if isinstance(value, str):
            value = float(value) if re.fullmatch(r"\d+(\.\d+)?", value.strip()) else None
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 2**53:
            return round(value)
    return None


def text_of(value: object) -> str:
    """Return a text as a server sent it. Raises TypeError for anything else: it would be stored."""
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.40} is no text")
    return value


def logprob_of(value: object) -> float:
    """Return a log-probability (nats) as a server sent it. Raises TypeError for anything else: it would be stored."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not -1e9 < value < 1e9:
        raise TypeError(f"{value!r:.40} is no log-probability")
    return value


def _parsed(text: str) -> Any:
    try:
        return _whole(json.loads(text))
    except RecursionError:
        raise ValueError("nested too deep") from None


def _whole(value: Any) -> Any:
    """Return a JSON value whose texts hold no half characters: neither files nor tokenizers take them."""
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [_whole(item) for item in value]
    if isinstance(value, dict):
        return {_whole(key): _whole(item) for key, item in value.items()}
    return value


def _words(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, list):
        return [word for item in value for word in _words(item)]
    if isinstance(value, dict):
        words = [word for name in _WORDS if name in value for word in _words(value[name])]
        metadata = value.get("metadata")
        return words + (_words(metadata.get("raw")) if isinstance(metadata, dict) and metadata.get("raw") else [])
    return []


def _joined(events: list[Any]) -> Any:
    """Return the chat completion whose parts a stream of events sent."""
    events = [event for event in events if isinstance(event, dict)]
    if not events:
        raise ValueError("a stream without an event")
    choices: dict[int, dict[str, Any]] = {}
    for event in events:
        for part in event.get("choices") or ():
            choice = choices.setdefault(part.get("index") or 0, {"message": {"role": "assistant", "content": ""}})
            delta = part.get("delta") or part.get("message") or {}
            choice["message"]["content"] += delta.get("content") or ""
            choice["finish_reason"] = part.get("finish_reason") or choice.get("finish_reason")
            if part.get("logprobs"):
                choice["logprobs"] = part["logprobs"]
    usage = next((event["usage"] for event in reversed(events) if event.get("usage")), None)
    return {**events[-1], "choices": [choices[index] for index in sorted(choices)], "usage": usage}
