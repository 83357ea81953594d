"""Read how long a server asks to wait: from headers, or from the words of a refusal."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SPAN = r"\d+(?:\.\d+)?(?:ms|s|m|h|d)"
_IN_WORDS = re.compile(rf"(?:try again|retry)(?: after| in)\s+((?:{_SPAN}\s*)+|\d+(?:\.\d+)?\s*(?:seconds?|s\b))", re.I)
_DELAY = re.compile(r'"retryDelay"\s*:\s*"([^"]+)"')
_RESETS = re.compile(r"(?:x-|anthropic-)?ratelimit-(?:(\w+)-)?reset(?:-(\w+))?\Z")
_EPOCH = 1e9  # a larger number is a time of day (Unix time, s or ms), not a duration


def asked_wait(headers: Mapping[str, str], body: str = "") -> float | None:
    """Return the seconds that a refusal asks to wait; None if it does not say."""
    lower = {name.lower(): value for name, value in headers.items()}
    if (milliseconds := _number(lower.get("retry-after-ms", ""))) is not None:
        return milliseconds / 1000
    if "retry-after" in lower and (wait := seconds(lower["retry-after"])) is not None:
        return wait
    if match := _DELAY.search(body):
        return seconds(match[1])
    if match := _IN_WORDS.search(body):
        return seconds(match[1].replace("seconds", "s").replace("second", "s").replace(" ", ""))
    return reset_wait(lower)


def reset_wait(headers: Mapping[str, str]) -> float | None:
    """Return the seconds until the latest reset of a limit that the headers call used up; None if none is."""
    lower = {name.lower(): value for name, value in headers.items()}
    waits = []
    for name, value in lower.items():
        if not _RESETS.match(name):
            continue
        remaining = name.replace("reset", "remaining")
        if lower.get(remaining, "").strip() in ("0", "0.0") and (wait := seconds(value)) is not None:
            waits.append(wait)
    return max(waits, default=None)


def seconds(text: str) -> float | None:
    """Return the seconds from now that a text names: "2.5", "6m0s", "120ms", a Unix time (s or ms), an HTTP date, an
    ISO date; never less than 0, and None for anything else."""
    text = text.strip()
    if (number := _number(text)) is not None:
        if number > _EPOCH:
            return max(0.0, (number / 1000 if number > 1000 * _EPOCH else number) - time.time())
        return number
    if re.fullmatch(rf"(?:{_SPAN})+", text):
        return sum(float(n) * _UNITS[unit] for n, unit in re.findall(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)", text))
    for parse in (parsedate_to_datetime, datetime.fromisoformat):
        try:
            moment = parse(text)
        except ValueError:
            continue
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return max(0.0, moment.timestamp() - time.time())
    return None


def _number(text: str) -> float | None:
    return float(text) if re.fullmatch(r"\d+(\.\d+)?", text.strip()) else None
