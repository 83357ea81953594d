"""Twists that many rows share: error replies, changed bodies, rates."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from imitation import Reply, Request, Twist


def error(status: int, message: str, headers: Mapping[str, str] | None = None, **fields: Any) -> Twist:
    """Return the twist of an error in OpenAI's form, with further fields of it."""
    body = {"error": {"message": message, **fields}}
    return lambda *_: Reply(body, status, headers or {})


def wrong(status: int, body: Any, headers: Mapping[str, str] | None = None) -> Twist:
    """Return the twist of a reply with this body: data, or bytes as they are."""
    return lambda *_: Reply(body, status, headers or {})


def drop(*_: object) -> Reply:
    return Reply(wire=b"")


def edited(edit: Callable[[dict[str, Any]], object]) -> Twist:
    """Return the twist that edits the body of each right reply for samples in place."""

    def twist(request: Request, reply: Reply) -> Reply:
        if not request.samples or reply.status != 200:
            return reply
        body = copy.deepcopy(reply.body)
        edit(body)
        return replace(reply, body=body)

    return twist


def each_choice(**fields: Any) -> Twist:
    """Return the twist that sets fields of every choice; a callable gets the choice and returns its field."""

    def edit(body: dict[str, Any]) -> None:
        for choice in body["choices"]:
            choice.update({name: value(choice) if callable(value) else value for name, value in fields.items()})

    return edited(edit)


def each_message(change: Callable[[str], Any], **fields: Any) -> Twist:
    """Return the twist that changes the content of every choice, and sets fields of its message."""

    def edit(body: dict[str, Any]) -> None:
        for choice in body["choices"]:
            message = choice["message"]
            message.update({"content": change(message["content"]), **fields})

    return edited(edit)


def usage(value: Any) -> Twist:
    """Return the twist that puts `value` into the place of every usage; a callable gets the right one."""
    return edited(lambda body: body.update(usage=value(body["usage"]) if callable(value) else value))


def refusing(reason: Callable[[dict[str, Any]], str | None], status: int = 400, **fields: Any) -> Twist:
    """Return the twist of a server that refuses the bodies for which there is a `reason`."""

    def twist(request: Request, reply: Reply) -> Reply:
        message = reason(request.body) if request.samples else None
        return reply if message is None else Reply({"error": {"message": message, **fields}}, status)

    return twist


def first(count: int, twist: Twist) -> Twist:
    """Return the twist of the first `count` requests about problems alone."""
    numbers = itertools.count()
    return lambda request, reply: twist(request, reply) if request.item is not None and next(numbers) < count else reply


def until(end: float, twist: Twist, begin: float = 0.0) -> Twist:
    """Return the twist of the requests for samples between two moments alone."""

    def timed(request: Request, reply: Reply) -> Reply:
        return twist(request, reply) if request.samples and begin <= request.moment < end else reply

    return timed


def chain(*twists: Twist) -> Twist:
    """Return all twists, one after the other."""

    def twist(request: Request, reply: Reply) -> Reply:
        for one in twists:
            reply = one(request, reply)
        return reply

    return twist


def slow(seconds: float) -> Twist:
    """Return the twist that lets every sample take some time."""
    return lambda request, reply: replace(reply, seconds=seconds) if request.samples else reply
