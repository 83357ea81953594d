"""The four things a user may swap, one method each, and what a generator may offer beside.

A class with the method is enough: name it in the config as `kind: my_module:MyJudge`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from stepagent.tree import StepTree
from stepagent.types import Completions, Problem, Prompt, Proposal, Sampling, Step, Verdict


@runtime_checkable
class Backend(Protocol):
    """Anything that turns a prompt into n completions."""

    async def complete(self, prompt: Prompt, sampling: Sampling) -> Completions:
        """Draw `sampling.n` continuations of `prompt`. Raises BackendError if that fails for good."""
        ...


@runtime_checkable
class Generator(Protocol):
    """Proposes next steps."""

    async def propose(self, problem: Problem, prefix: Sequence[Step], width: int, seed: int) -> Proposal:
        """Sample `width` next steps after `prefix`; equal ones are merged and counted."""
        ...


@runtime_checkable
class Solver(Protocol):
    """What a generator may offer beside steps: whole solutions. Strategies that ask for them say so."""

    async def solve(
        self, problem: Problem, count: int, max_tokens: int, seed: int, *, greedy: bool = False
    ) -> Proposal:
        """Sample `count` solutions, each one step of the proposal; `greedy`: at temperature 0. A solution
        that reaches `max_tokens` is marked runaway."""
        ...


@runtime_checkable
class Judge(Protocol):
    """Compares sibling steps."""

    async def judge(
        self, problem: Problem, prefix: Sequence[Step], candidates: Sequence[Step], seed: int
    ) -> Verdict:
        """Rank `candidates` as continuations of `prefix`. A failure is a Verdict, not an exception."""
        ...


@runtime_checkable
class SearchStrategy(Protocol):
    """Grows the step tree of one problem."""

    async def search(self, problem: Problem, seed: int) -> StepTree:
        """The finished tree. A request that failed for good gives a tree with status "failed"."""
        ...
