"""The control judge: a coin flip for every comparison, so that nothing learnt from it is judgement."""

from __future__ import annotations

import random
from collections.abc import Sequence

from stepagent.judges.comparisons import Comparisons, compare_candidates
from stepagent.seeds import derive_seed
from stepagent.types import Problem, Step, Usage, Verdict, Vote


class RandomJudge:
    """Judge that prefers either position with equal chance, by seed, and asks no model."""

    def __init__(self, comparisons: Comparisons = "adaptive") -> None:
        self._comparisons: Comparisons = comparisons

    async def judge(self, problem: Problem, prefix: Sequence[Step], candidates: Sequence[Step], seed: int) -> Verdict:
        """See Judge."""

        async def compare(first: int, second: int) -> tuple[Vote, Usage]:
            coin = random.Random(derive_seed(seed, "coin", first, second)).random()
            return Vote(first, second, "first" if coin < 0.5 else "second"), Usage()

        return await compare_candidates(self._comparisons, len(candidates), compare, seed=seed)
