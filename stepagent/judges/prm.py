"""A process reward model: how likely each step is right, in one pass and without words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from stepagent.errors import BackendError
from stepagent.judges.scores import by_chances, scored_verdict
from stepagent.types import Problem, Step, Usage, Verdict


class StepScorer(Protocol):
    """What a process reward model offers: `judge.backend.kind: prm_classifier | prm_tags | prm_pooling`."""

    async def score(
        self, problem: Problem, prefix: Sequence[Step], candidates: Sequence[Step]
    ) -> tuple[list[float], Usage]:
        """For each candidate the probability that it is right after `prefix`. Raises BackendError."""
        ...


class PrmJudge:
    """Best and worst by a process reward model's probabilities (arXiv 2305.20050, 2312.08935)."""

    def __init__(self, backend: StepScorer) -> None:
        self._scorer = backend

    async def judge(
        self, problem: Problem, prefix: Sequence[Step], candidates: Sequence[Step], seed: int
    ) -> Verdict:
        """See Judge."""
        try:
            chances, usage = await self._scorer.score(problem, prefix, candidates)
        except BackendError:
            return Verdict("error", ())
        return scored_verdict(chances, by_chances(chances), usage, seed, "error")
