"""The protocols of everything a user may swap, one method each, and what such a part may offer beside it.

A class with the method is enough: name it in the config as `kind: my_module:MyJudge`. The protocols below the
first six are optional abilities, asked for by `isinstance`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

from stepagent.tree import StepTree
from stepagent.types import Completions, Problem, Prompt, Proposal, Sampling, Step, Usage, Verdict


@runtime_checkable
class Backend(Protocol):
    """Anything that turns a prompt into n completions."""

    async def complete(self, prompt: Prompt, sampling: Sampling) -> Completions:
        """Draw `sampling.n` continuations of `prompt`. Raises BackendError if that fails for good."""
        ...


@runtime_checkable
class StepScorer(Protocol):
    """A process reward model: it scores steps and writes none."""

    async def score(
        self, problem: Problem, prefix: Sequence[Step], candidates: Sequence[Step]
    ) -> tuple[list[float], Usage]:
        """Return the probability of each candidate that it is right after `prefix`. Raises BackendError."""
        ...


@runtime_checkable
class Generator(Protocol):
    """Proposes next steps."""

    async def propose(self, problem: Problem, prefix: Sequence[Step], width: int, seed: int) -> Proposal:
        """Sample `width` next steps after `prefix`; equal ones are merged and counted."""
        ...


@runtime_checkable
class Judge(Protocol):
    """Compares sibling steps."""

    async def judge(self, problem: Problem, prefix: Sequence[Step], candidates: Sequence[Step], seed: int) -> Verdict:
        """Rank `candidates` as continuations of `prefix`. A failure is a Verdict with its error, no exception."""
        ...


@runtime_checkable
class SearchStrategy(Protocol):
    """Grows the step tree of one problem."""

    async def search(self, problem: Problem, seed: int) -> StepTree:
        """Return the finished tree. A request that failed for good gives a tree with status "failed"."""
        ...


@runtime_checkable
class Grader(Protocol):
    """Says whether solutions are right."""

    def grade(self, problem: Problem, solution: str) -> bool:
        """Return whether `solution`, the text of all its steps, is right; `problem.answer` is the reference. It may
        raise, and be slow: that is a record, neither right nor wrong."""
        ...


@runtime_checkable
class AnswerReader(Protocol):
    """A grader by which votes are counted; for another one they are counted as `math` does. Neither method sees a
    reference."""

    def answer(self, solution: str) -> str | None:
        """Return the final answer that a solution states; None if it states none."""
        ...

    def same(self, first: str, second: str) -> bool:
        """Return whether two answers are equal."""
        ...


@runtime_checkable
class Solver(Protocol):
    """A generator that also writes whole solutions."""

    async def solve(
        self, problem: Problem, count: int, max_tokens: int, seed: int, *, greedy: bool = False
    ) -> Proposal:
        """Sample `count` solutions, each one step of the proposal; `greedy`: at temperature 0. A solution
        that reaches `max_tokens` is marked runaway."""
        ...


@runtime_checkable
class Named(Protocol):
    """A backend or generator that says which model it asks: the name it is priced and stored under."""

    model: str


def model_name(part: object) -> str:
    """Return the name of the model that a backend or generator asks; "" for one that does not say."""
    return part.model if isinstance(part, Named) else ""


@runtime_checkable
class Versioned(Protocol):
    """A backend that says which weights are behind its model's name: only its replies can be stored."""

    version: str | None


@runtime_checkable
class Closable(Protocol):
    """A backend that keeps connections open."""

    async def close(self) -> None:
        """Close them."""
        ...


@runtime_checkable
class PrefixCached(Protocol):
    """A backend whose server counts the hits of its prefix cache."""

    async def prefix_cache(self) -> tuple[float, float] | None:
        """Prompt tokens found in the cache and prompt tokens looked up since the server started, or None."""
        ...


@runtime_checkable
class Headed(Protocol):
    """A backend that shows the headers of its newest reply: servers state their rate limits there."""

    @property
    def headers(self) -> Mapping[str, str]:
        """Names (in lower case) and values."""
        ...


@runtime_checkable
class Bounded(Protocol):
    """A generator or judge that knows the most its calls can cost."""

    def most(self, width: int) -> dict[str, Usage]:
        """Return the most that one call with `width` candidates can sample, by model."""
        ...


def most_of(part: object, width: int) -> dict[str, Usage]:
    """Return the most that one call of a generator or judge can sample, by model; nothing for one that does not say."""
    return part.most(width) if isinstance(part, Bounded) else {}


@runtime_checkable
class BoundedSearch(Protocol):
    """A strategy that knows the most a problem can cost."""

    def most(self) -> dict[str, Usage]:
        """Return the most that one problem can sample, by model."""
        ...
