"""Types of constructor arguments that say more than their values: addresses, prompt files, transport."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator

from stepagent.config.settings import Positive


@dataclass(frozen=True, slots=True)
class Transport:
    """Marks a constructor argument that says how an endpoint is asked, not what: results do not depend on it, so
    a finished stage stays finished when it changes. `only` limits the mark to values of that type."""

    only: type = object


@dataclass(frozen=True, slots=True)
class PromptFile:
    """Marks a constructor argument that names a prompt file. `load` raises ConfigError for a bad one; binding
    calls it, so that it is reported before anything is made. `takes_criteria`: with the argument `criteria` as well."""

    load: Callable[..., object]
    takes_criteria: bool = False


def check_addresses(value: str | list[str]) -> str | list[str]:
    """Return the address or addresses of OpenAI-compatible endpoints. Raises ValueError for one that cannot be one."""
    addresses = [value] if isinstance(value, str) else value
    if not addresses:
        raise ValueError("names no address; give one or more")
    for address in addresses:
        if not address.startswith(("http://", "https://")):
            raise ValueError(f"'{address}' is no address; write http://HOST:PORT/v1")
        try:
            has_host = bool(urlsplit(address).hostname)
        except ValueError:
            has_host = False
        if not has_host or any(character.isspace() for character in address):
            raise ValueError(f"'{address}' is no address; write http://HOST:PORT/v1")
    return value


def is_here(host: str) -> bool:
    """Return whether a host is this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


BaseUrl = Annotated[str, AfterValidator(check_addresses)]
BaseUrls = Annotated[str | list[str], AfterValidator(check_addresses), Transport(only=list)]
"""Addresses of one pool serve the same weights: any of them may come or go."""
Seconds = Annotated[Positive, Transport()]
Requests = Annotated[Positive, Transport()]
Attempts = Annotated[Positive | None, Transport()]
RatePerMinute = Annotated[Positive | None, Transport()]
KeyVariable = Annotated[str, Transport()]
"""The environment variable that holds an API key."""
