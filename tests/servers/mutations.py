"""Random mutations of right replies: of their data, their bytes, their heads and their connections.

A mutation is a function from a right reply to the one that is sent, with the words that describe it. It does the same
to every reply of one form.
"""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from imitation import Reply
from mutations_data import of_data


@dataclass(frozen=True)
class Mutation:
    """A mutation, and its words for the report of a failure."""

    words: str
    apply: Callable[[Reply], Reply]


def draw(rng: random.Random) -> Mutation:
    """Return a mutation."""
    families = (lambda rng: Mutation(*of_data(rng)), of_bytes, of_status, of_headers, of_connection)
    (family,) = rng.choices(families, (40, 20, 15, 15, 10))
    return family(rng)


# bytes


def of_bytes(rng: random.Random) -> Mutation:
    """Return the mutation of a body's bytes."""
    name = rng.choice(list(BYTES))
    seed = rng.random()

    def apply(reply: Reply) -> Reply:
        body = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
        return replace(reply, body=BYTES[name](body, random.Random(seed)))

    return Mutation(f"{name} ({seed:.4f})", apply)


def _inside(body: bytes, insert: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(body) + 1)
    return body[:place] + insert + body[place:]


def _flipped(body: bytes, rng: random.Random) -> bytes:
    changed = bytearray(body)
    for _ in range(min(len(body), rng.choice((1, 3, 50)))):
        changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed)


def _streamed(body: bytes, rng: random.Random) -> bytes:
    end = rng.choice((b"data: [DONE]\n\n", b"", b"data: {", b"event: error\ndata: {}\n\n"))
    return b"data: " + body + b"\n\n" + end


BYTES: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "cut off": lambda body, rng: body[: rng.randrange(len(body) + 1)],
    "flipped": _flipped,
    "no UTF-8 inside": lambda body, rng: _inside(body, rng.choice((b"\xff", b"\xc3\x28", b"\xed\xa0\x80")), rng),
    "a zero byte inside": lambda body, rng: _inside(body, b"\0", rng),
    "a mark of the byte order": lambda body, _: b"\xef\xbb\xbf" + body,
    "as UTF-16": lambda body, _: body.decode("utf-8", "replace").encode("utf-16"),
    "words before it": lambda body, _: b"Sure! Here it is: " + body,
    "words after it": lambda body, _: body + b" -- sent by a gateway",
    "twice": lambda body, _: body + b"\n" + body,
    "lines of JSON": lambda body, _: b"\n".join(body.split(b", ")),
    "single quotes": lambda body, _: body.replace(b'"', b"'"),
    "as a stream": _streamed,
    "packed and not said": lambda body, _: gzip.compress(body),
    "nothing": lambda _, __: b"",
    "blanks": lambda _, __: b" \r\n ",
    "a page": lambda _, __: b"<!doctype html><title>Gateway</title><p>\xe4 not found</p>",
    "a page of 300 kB": lambda _, __: b"<p>" + b"word " * 60_000,
    "nested for ever": lambda _, rng: rng.choice((b"[", b'{"a":')) * 60_000,
    "random": lambda body, rng: rng.randbytes(len(body)),
}


# status

STATUSES = (
    *(100, 101, 103, 199, 201, 202, 203, 204, 205, 206, 207, 226, 299, 300, 301, 302, 303, 304, 305, 307, 308, 399),
    *(400, 401, 402, 403, 404, 405, 406, 407, 408, 409, 410, 411, 412, 413, 414, 415, 416, 417, 418, 421, 422, 423),
    *(424, 425, 426, 428, 429, 431, 440, 444, 451, 460, 494, 498, 499, 500, 501, 502, 503, 504, 505, 507, 508, 510),
    *(511, 520, 521, 522, 523, 524, 525, 526, 527, 529, 530, 561, 598, 599, 600, 799, 999),
)
BODIES: dict[str, Any] = {
    "the right one": ...,
    "an error": {"error": {"message": "upstream said no", "type": "server_error", "code": 1234}},
    "an error as text": {"error": "upstream said no"},
    "a detail": {"detail": [{"loc": ["body", "n"], "msg": "field required"}]},
    "a message of null": {"error": {"message": None, "code": None}},
    "an error that is a list": {"error": ["no", {"a": 1}]},
    "an error within an error": {"error": {"message": {"error": {"message": "deep"}}}},
    "a page": b"<html><head><title>502</title></head><body>\xff bad gateway</body></html>",
    "nothing": b"",
    "null": b"null",
    "20 kB of words": {"error": {"message": "the prompt was: " + "word " * 4000}},
    "lines and colours": {"error": {"message": "first\nsecond\x1b[31m\n[bold]third[/] {x}"}},
}


def of_status(rng: random.Random) -> Mutation:
    """Return the mutation to another status, with the right body or another one."""
    status, name = rng.choice(STATUSES), rng.choice(list(BODIES))
    closes = {"Connection": "close"} if rng.random() < 0.5 else {}

    def apply(reply: Reply) -> Reply:
        body = reply.body if name == "the right one" else BODIES[name]
        return replace(reply, status=status, body=body, headers={**reply.headers, **closes})

    return Mutation(f"status {status} with {name}", apply)


# headers

WORDS = (
    "",
    "-1",
    "0",
    "1e999",
    "nan",
    "soon",
    "0.001",
    "30",
    "99999999999999999999",
    "1,2",
    "\xff",
    "6m0s",
    "-",
    "None",
)
HEADERS: dict[str, tuple[str, ...]] = {
    "Content-Type": (
        *("", "text/plain", "text/html; charset=utf-7", "application/json; charset=nonsense", "text/event-stream"),
        *("application/octet-stream", ";;;", "application/json; charset=utf-16", "multipart/form-data; boundary=x"),
    ),
    "Content-Length": ("", "0", "5", "-1", "99999", "x", "1e3", "99999999999999999999999", "10, 10"),
    "Content-Encoding": ("gzip", "br", "zstd", "deflate", "identity", "nonsense", "gzip, gzip"),
    "Transfer-Encoding": ("chunked", "gzip, chunked", "nonsense", "identity"),
    "Connection": ("close", "upgrade", "keep-alive, close", "\xff"),
    "Location": ("", "/", "http://127.0.0.1:9/", "ftp://x", "http://[::", "//"),
    "Retry-After": WORDS,
    "retry-after-ms": WORDS,
    "x-ratelimit-remaining-requests": WORDS,
    "x-ratelimit-reset-requests": WORDS,
    "x-ratelimit-limit-requests": WORDS,
    "Set-Cookie": ("a=b; Max-Age=-1", ";;;=", "x" * 9000),
    "Date": ("yesterday", "Thu, 01 Jan 1970 00:00:00 GMT", "\0"),
    "X-Odd": ("a\rb", "a\nb", "a\0b", "\xe4" * 50, "x" * 7000, "x" * 70_000, "(", '"'),
    "x odd name": ("1",),
    "": ("1",),
}


def of_headers(rng: random.Random) -> Mutation:
    """Return the mutation of one to three headers, under the right status or one that invites a look at them."""
    names = rng.sample(list(HEADERS), rng.choice((1, 1, 2, 3)))
    headers = {name: rng.choice(HEADERS[name]) for name in names}
    if any(name.startswith("x-ratelimit") for name in names):
        headers |= {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": rng.choice(WORDS)}
    status = rng.choice((200, 200, 200, 429, 503, 307))
    words = ", ".join(f"{name}: {value[:30]!r}" for name, value in headers.items())

    def apply(reply: Reply) -> Reply:
        changed = replace(reply, status=status, headers={**reply.headers, **headers})
        return replace(changed, wire=changed.packet())

    return Mutation(f"status {status} and {words}", apply)


# connection


def of_connection(rng: random.Random) -> Mutation:
    """Return the mutation of a whole packet, or of the moment when it comes."""
    name, seed = rng.choice(list(PACKETS)), rng.random()
    seconds = rng.choice((5.0, 90.0, 10_000.0)) if rng.random() < 0.2 else 0.0

    def apply(reply: Reply) -> Reply:
        closing = replace(reply, headers={"Connection": "close", **reply.headers})
        wire = PACKETS[name](closing.packet(), random.Random(seed))
        return replace(reply, wire=wire, seconds=seconds)

    return Mutation(f"{name} ({seed:.4f}) after {seconds:g} s", apply)


PACKETS: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "late": lambda packet, _: packet,
    "no reply": lambda _, __: b"",
    "half a packet": lambda packet, rng: packet[: rng.randrange(1, len(packet))],
    "a head alone": lambda packet, _: packet.partition(b"\r\n\r\n")[0] + b"\r\n\r\n",
    "a body alone": lambda packet, _: b"connection: close\r\n\r\n" + packet.partition(b"\r\n\r\n")[2],
    "an old version": lambda packet, rng: packet.replace(b"1.1", rng.choice((b"0.9", b"1.0", b"2", b"9.9")), 1),
    "another protocol": lambda packet, _: packet.replace(b"HTTP/1.1", b"connection: close", 1),
    "bare line ends": lambda packet, _: packet.replace(b"\r\n", b"\n"),
    "a line without a colon": lambda packet, _: packet.replace(b"\r\n", b"\r\nno colon here\r\n", 1),
    "flipped": _flipped,
    "doubled": lambda packet, _: packet * 2,
    "a broken chunk": lambda packet, _: (
        packet.partition(b"\r\n\r\n")[0].replace(b"Content-Length", b"Transfer-Encoding: chunked\r\nX-Length")
        + b"\r\n\r\nfff\r\n{}\r\n"
    ),
}
