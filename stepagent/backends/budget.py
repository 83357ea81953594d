"""The budget of a run in tokens, money and wall time, with one count for all its backends."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping

from stepagent.backends.wrapper import Wrapper
from stepagent.config.settings import BudgetSettings, Price
from stepagent.errors import BudgetError, ConfigError
from stepagent.interfaces import Backend
from stepagent.types import Completions, Prompt, Sampling, Usage


class Budget:
    """Count of a run's usage by model, and its limits.

    `spent` is the usage of earlier starts of the same run; the limit in seconds counts from this start.
    Prices are per million tokens.
    """

    def __init__(
        self,
        settings: BudgetSettings | None = None,
        prices: Mapping[str, Price] | None = None,
        spent: Mapping[str, Usage] | None = None,
    ) -> None:
        self._limits = settings or BudgetSettings()
        self._prices = prices or {}
        self.spent = dict(spent or {})
        self._start = time.monotonic()
        self._in_flight = 0
        self._idle = asyncio.Condition()

    def check_price(self, model: str) -> None:
        """Raise ConfigError if money is limited and the price of `model` is not known."""
        if self._limits.money is not None and model not in self._prices:
            raise ConfigError(
                f"prices: budget.money is set, but '{model}' has no price; add prices: {{{model}: "
                "{prompt: ..., completion: ...}} per million tokens (0 for a server of your own)"
            )

    def price(self, model: str, usage: Usage) -> float:
        """Return the cost of `usage` of `model`, in the price table's currency."""
        price = self._prices.get(model, Price(prompt=0, completion=0))
        return (usage.prompt_tokens * price.prompt + usage.completion_tokens * price.completion) / 1e6

    @property
    def tokens(self) -> int:
        """Prompt and sampled tokens so far."""
        return sum(usage.prompt_tokens + usage.completion_tokens for usage in list(self.spent.values()))

    @property
    def money(self) -> float:
        """Cost so far, in the price table's currency."""
        return sum(self.price(model, usage) for model, usage in list(self.spent.items()))

    def exhausted(self) -> str | None:
        """Return the limit that the next request could break; each one in flight counts at the mean cost."""
        requests = sum(usage.requests for usage in list(self.spent.values()))
        growth = 1 + self._in_flight / requests if requests else 1.0
        limits = self._limits
        if limits.tokens is not None and self.tokens * growth >= limits.tokens:
            return f"budget.tokens ({limits.tokens:,})"
        if limits.money is not None and self.money * growth >= limits.money:
            return f"budget.money ({limits.money:g})"
        if limits.seconds is not None and time.monotonic() - self._start >= limits.seconds:
            return f"budget.seconds ({limits.seconds:,})"
        return None

    def note(self) -> str:
        """Return the counts so far, as text."""
        cost = f", cost {self.money:.4g}" if self._prices else ""
        requests = sum(usage.requests for usage in list(self.spent.values()))
        return f"{requests:,} requests, {self.tokens:,} tokens{cost}"

    async def begin(self) -> None:
        """Count a request as in flight.

        Raises BudgetError once a limit is reached, after all requests in flight have ended, so that their
        replies are kept.
        """
        while (limit := self.exhausted()) is not None and self._in_flight:
            # The requests in flight may cost less than the mean at which they are counted.
            async with self._idle:
                await self._idle.wait()
        if limit is None:
            self._in_flight += 1
            return
        raise BudgetError(
            f"{limit} is used up: {self.note()}; what is finished is kept; the same command with a larger "
            "budget goes on from there"
        )

    async def end(self, model: str, usage: Usage) -> None:
        """Count a request as ended, with its usage."""
        self._in_flight -= 1
        self.spent[model] = self.spent.get(model, Usage()) + usage
        async with self._idle:
            self._idle.notify_all()


class Budgeted(Wrapper):
    """Wrapper that asks `backend` until `budget` is used up. Raises BudgetError then."""

    def __init__(self, backend: Backend, budget: Budget, model: str) -> None:
        super().__init__(backend)
        self.model = model
        budget.check_price(model)
        self._budget = budget

    async def complete(self, prompt: Prompt, sampling: Sampling) -> Completions:
        """See Backend."""
        await self._budget.begin()
        usage = Usage()
        try:
            reply = await self.wrapped.complete(prompt, sampling)
            usage = reply.usage
            return reply
        finally:
            await self._budget.end(self.model, usage)
