"""A process reward model behind a vLLM server's pooling endpoint. `judges/prm.py` asks it."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence

from stepagent.backends.endpoint import Endpoint
from stepagent.backends.replies import count
from stepagent.backends.retry import Retries
from stepagent.config.arguments import Attempts, BaseUrl, KeyVariable, Requests, Seconds
from stepagent.errors import BackendError, TransientError
from stepagent.types import Problem, Step, Usage


class PoolingPrm:
    """Scorer that sends question, prefix and step to /pooling, steps separated by `separator`.

    Of the last token's row it reads the second of two values, or the only one; a value outside [0, 1] goes
    through a sigmoid. The server is started with `--runner pooling`; its model classifies tokens (two labels)
    or gives one reward.
    """

    def __init__(
        self,
        base_url: BaseUrl,
        model: str,
        separator: str = "\n",
        *,
        api_key_env: KeyVariable = "OPENAI_API_KEY",
        timeout: Seconds = 600,
        attempts: Attempts = None,
        max_in_flight: Requests = 64,
    ) -> None:
        self.model = model
        self._endpoint = Endpoint(base_url, model, api_key_env, timeout=timeout)
        self._separator = separator
        self._retries = Retries(attempts)
        self._slots = asyncio.Semaphore(max_in_flight)

    async def score(
        self, problem: Problem, prefix: Sequence[Step], candidates: Sequence[Step]
    ) -> tuple[list[float], Usage]:
        """See StepScorer. Raises BackendError or ConfigError."""
        steps = [step.content + self._separator for step in prefix]
        before = problem.question + self._separator + "".join(steps)
        texts = [before + step.content + self._separator for step in candidates]

        async def ask(_: int) -> tuple[list[float], Usage]:
            async with self._slots:
                reply = await self._endpoint.post("/pooling", {"input": texts})
            try:
                chances = [self._chance(entry["data"]) for entry in reply["data"]]
                if len(chances) != len(texts):
                    raise TransientError(f"{self._endpoint.url}: {len(chances)} of {len(texts)} scores")
                prompt_tokens = count(reply.get("usage"), "prompt_tokens", "total_tokens") or 0
            except (KeyError, TypeError, IndexError, AttributeError, ValueError) as error:
                raise self._endpoint.unreadable(error) from None
            return chances, Usage(1, prompt_tokens, 0)

        return await self._retries.run(ask)

    def _chance(self, data: Sequence[Sequence[float] | float]) -> float:
        last = data[-1]
        row = [float(last)] if isinstance(last, int | float) else [float(value) for value in last]
        if len(row) not in (1, 2):
            raise BackendError(
                f"{self._endpoint.url}: {len(row)} labels; a process reward model has two, wrong and right"
            )
        value = row[-1]
        return value if 0 <= value <= 1 else 1 / (1 + math.exp(min(-value, 700)))

    async def close(self) -> None:
        """Close the connections."""
        await self._endpoint.close()
