"""Kind 1: rate limits, and the ways in which servers say how long to wait."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import formatdate
from typing import Any

from faults import error, first, slow, until, wrong
from imitation import Reply, Request, Twist
from rows import Row, Run, on

_HOLD = 3.0  # seconds that a server asks to wait


def quota(limit: int) -> Twist:
    """Return the twist of a quota for each minute of the clock; the 429s say nothing more."""
    counts: dict[int, int] = {}

    def twist(request: Request, reply: Reply) -> Reply:
        minute = int(request.moment // 60)
        if not request.samples:
            return reply
        counts[minute] = counts.get(minute, 0) + 1
        return reply if counts[minute] <= limit else Reply({"error": {"message": "Rate limit reached"}}, 429)

    return twist


def held(refusal: Callable[[float, float], Reply]) -> Twist:
    """Return the twist of a server that refuses from the first step on until `_HOLD` seconds are over; `refusal`
    gets the seconds that are left, and the time of the day when they are over."""
    begin: list[float] = []

    def twist(request: Request, reply: Reply) -> Reply:
        if request.item is None:
            return reply
        begin[:] = begin or [request.moment]
        seconds = begin[0] + _HOLD - request.moment
        return refusal(seconds, request.unix + seconds) if seconds > 0 else reply

    return twist


def limited(headers: dict[str, str], message: str = "Rate limit reached", **fields: Any) -> Reply:
    """Return a 429."""
    return Reply({"error": {"message": message, **fields}}, 429, headers)


def limited_at_once(*_: object) -> Reply:
    return limited({})


def waits(run: Run) -> None:
    """Check that nobody asked again while the server had asked to wait, but for the requests on their way."""
    moments = [request.moment for request, status in run.server.log if status in (429, 503)]
    assert moments, "nothing was refused"
    early = [moment for moment in moments if moment - moments[0] > 0.9]
    assert len(early) <= 1, f"asked again after {[round(moment - moments[0], 1) for moment in early]} s"


def served(run: Run, start: float, end: float) -> int:
    """Return the number of requests that were answered between two moments."""
    return len(run.server.asked(lambda request: request.samples and start <= request.moment < end))


def keeps_its_quota(run: Run) -> None:
    assert served(run, 60, 120) >= 150, [served(run, start, start + 60) for start in range(0, 300, 60)]


def recovers(run: Run) -> None:
    before = served(run, 2, 10) / 8
    last = run.server.log[-1][0].moment
    after = served(run, 70, min(80, last)) / (min(80, last) - 70) if last > 72 else before
    assert after >= before / 2, f"{before:.1f} requests a second before the storm, {after:.1f} half a minute after"


def in_remaining_header(stamp: Callable[[float], str]) -> Twist:
    """Return the twist whose early replies say that no request is left until `stamp`, a way to write a time."""

    def twist(request: Request, reply: Reply) -> Reply:
        if request.item is None or request.moment > 1:
            return reply
        return Reply(
            reply.body,
            200,
            {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": stamp(request.unix + 2)},
        )

    return twist


_JSON_HINT = [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "3s"}]

RATES = [
    Row(
        "200 a minute without Retry-After",
        1,
        quota(200),
        items=60,
        hasten=40,
        patience=6,
        ended=60,
        settings={"concurrency": 16},
        check=keeps_its_quota,
    ),
    Row(
        "a storm of 30 s",
        1,
        lambda request, reply: until(40, limited_at_once, begin=10)(request, slow(1)(request, reply)),
        items=60,
        hasten=40,
        patience=5,
        ended=60,
        check=recovers,
    ),
    Row(
        "insufficient quota",
        1,
        error(429, "You exceeded your current quota, please check your plan", code="insufficient_quota"),
        patience=3,
        code=2,
        says=("exceeded your current quota",),
        again="goes on",
    ),
    Row(
        "a daily limit",
        1,
        first(10**6, error(429, "Daily limit of free requests reached", {"Retry-After": "86400"})),
        patience=3,
        code=2,
        says=("(?i)daily limit",),
        again="goes on",
    ),
    Row(
        "a daily limit in the middle",
        1,
        on(
            lambda request: request.samples and request.number > 40,
            error(429, "Daily limit of free requests reached", {"Retry-After": "86400"}),
        ),
        items=20,
        hasten=20,
        patience=3,
        code=2,
        says=("(?i)daily limit",),
        again="goes on",
    ),
    Row(
        "the reset is a Unix time",
        1,
        in_remaining_header(lambda end: f"{end:.1f}"),
        hasten=4,
        ended=3,
    ),
    Row(
        "the reset is a Unix time in milliseconds",
        1,
        held(lambda _, end: limited({"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": f"{end * 1e3:.0f}"})),
        hasten=4,
        ended=3,
        check=waits,
    ),
    Row(
        "the reset is an ISO date",
        1,
        in_remaining_header(lambda end: datetime.fromtimestamp(end, UTC).isoformat()),
        hasten=4,
        ended=3,
    ),
    Row(
        "Anthropic headers with an ISO date",
        1,
        held(
            lambda _, end: limited(
                {
                    "anthropic-ratelimit-requests-remaining": "0",
                    "anthropic-ratelimit-requests-reset": datetime.fromtimestamp(end, UTC).isoformat(),
                }
            )
        ),
        hasten=4,
        ended=3,
        check=waits,
    ),
    Row(
        "Retry-After is an HTTP date",
        1,
        held(lambda _, end: limited({"Retry-After": formatdate(end + 0.5, usegmt=True)})),
        hasten=4,
        ended=3,
        check=waits,
    ),
    Row(
        "Retry-After is a date that is over",
        1,
        first(4, error(429, "slow down", {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"})),
        ended=3,
    ),
    Row(
        "Retry-After in seconds",
        1,
        held(lambda left, _: limited({"Retry-After": f"{left:.1f}"})),
        hasten=4,
        ended=3,
        check=waits,
    ),
    Row("Retry-After 0", 1, first(6, error(429, "slow down", {"Retry-After": "0"})), ended=3),
    Row("Retry-After is no number", 1, first(6, error(429, "slow down", {"Retry-After": "soon"})), ended=3),
    Row(
        "retry-after-ms",
        1,
        held(lambda left, _: limited({"retry-after-ms": f"{left * 1000:.0f}"})),
        hasten=4,
        ended=3,
        check=waits,
    ),
    Row(
        "try again in 2.5s in the body",
        1,
        held(
            lambda left, _: limited(
                {}, f"Rate limit reached for m on requests per min. Please try again in {left:.3f}s."
            )
        ),
        hasten=4,
        ended=3,
        check=waits,
    ),
    Row(
        "try again in 900ms in the body",
        1,
        held(lambda left, _: limited({}, f"Rate limit reached for m. Please try again in {left * 1000:.0f}ms.")),
        hasten=4,
        ended=3,
        check=waits,
    ),
    Row(
        "Gemini retryDelay in a list",
        1,
        held(lambda *_: Reply([{"error": {"code": 429, "message": "Resource exhausted", "details": _JSON_HINT}}], 429)),
        hasten=4,
        ended=3,
        check=waits,
    ),
    Row(
        "a 503 with Retry-After",
        1,
        held(lambda left, _: Reply({"error": {"message": "overloaded"}}, 503, {"Retry-After": f"{left:.1f}"})),
        hasten=4,
        ended=3,
        check=waits,
    ),
    Row("overloaded is 529", 1, first(8, error(529, "Overloaded", type="overloaded_error")), ended=3),
    Row(
        "a 429 page of a proxy",
        1,
        first(6, wrong(429, b"<html>Too Many Requests</html>", {"Content-Type": "text/html"})),
        ended=3,
    ),
    Row(
        "a 429 for the first request",
        1,
        on(lambda request: request.samples and request.number < 2, error(429, "slow down", {"Retry-After": "2"})),
        ended=3,
    ),
    Row(
        "a 429 beyond two open requests",
        1,
        lambda request, reply: limited({}) if request.samples and request.open > 2 else slow(0.5)(request, reply),
        items=8,
        settings={"concurrency": 8},
        hasten=20,
        patience=6,
        ended=8,
    ),
    Row(
        "a long wait is said",
        1,
        first(1, error(429, "slow down", {"Retry-After": "30"})),
        ended=3,
        says=("(?i)wait|rate limit|paus",),
    ),
    Row(
        "nothing is left, and the reset is now",
        1,
        lambda _, reply: Reply(
            reply.body, reply.status, {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "0s"}
        ),
        ended=3,
    ),
]
