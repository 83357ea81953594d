"""What the policies around a backend share: they pass on what it says about itself."""

from __future__ import annotations

from stepagent.interfaces import Backend


class Wrapper:
    """Around `backend`. `model` and `version` are its own: the name it asks for ("" if it has none), and what
    tells apart different weights under that name (None if it does not say)."""

    def __init__(self, backend: Backend) -> None:
        self.wrapped = backend
        self.model: str = getattr(backend, "model", "")
        self.version: str | None = getattr(backend, "version", None)

    async def close(self) -> None:
        """Close what the backend keeps open."""
        close = getattr(self.wrapped, "close", None)
        if close is not None:
            await close()

    async def prefix_cache(self) -> tuple[float, float] | None:
        """Prompt tokens that the server's prefix cache held, and prompt tokens asked for, since it started;
        None where it does not say."""
        ask = getattr(self.wrapped, "prefix_cache", None)
        return await ask() if ask is not None else None
