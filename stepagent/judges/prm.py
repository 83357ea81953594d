"""Judging by a process reward model: the probability that each step is right, in one forward pass."""

from __future__ import annotations

from collections.abc import Sequence

from stepagent.errors import BackendError
from stepagent.interfaces import StepScorer
from stepagent.judges.scores import by_chances, scored_verdict
from stepagent.types import Problem, Step, Verdict


class PrmJudge:
    """Judge that ranks steps by a process reward model's probabilities (arXiv 2305.20050, 2312.08935)."""

    def __init__(self, backend: StepScorer) -> None:
        self._scorer = backend

    async def judge(self, problem: Problem, prefix: Sequence[Step], candidates: Sequence[Step], seed: int) -> Verdict:
        """See Judge."""
        try:
            chances, usage = await self._scorer.score(problem, prefix, candidates)
        except BackendError as failure:
            return Verdict("error", (), error=str(failure))
        return scored_verdict(chances, by_chances(chances), usage, seed=seed, missing="error")
