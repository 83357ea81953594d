"""Base of the policies around a backend; they pass on its properties."""

from __future__ import annotations

from stepagent.interfaces import Backend, Closable, Named, PrefixCached, Versioned


class Wrapper:
    """Wrapper around `backend`, with its `model` and `version`.

    `model` is the name that the backend asks for ("" if it has none); `version` tells apart different weights
    under that name (None if the backend does not say).
    """

    def __init__(self, backend: Backend) -> None:
        self.wrapped = backend
        self.model: str = backend.model if isinstance(backend, Named) else ""
        self.version: str | None = backend.version if isinstance(backend, Versioned) else None

    async def close(self) -> None:
        """Close the backend's connections, if it has any."""
        if isinstance(self.wrapped, Closable):
            await self.wrapped.close()

    async def prefix_cache(self) -> tuple[float, float] | None:
        """Return the prompt tokens found in the server's prefix cache and those looked up, since its start;
        None where it does not say."""
        return await self.wrapped.prefix_cache() if isinstance(self.wrapped, PrefixCached) else None
