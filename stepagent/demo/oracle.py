"""The other control: a judge that knows the arithmetic world's right answers."""

from __future__ import annotations

from collections.abc import Sequence

from stepagent.demo.world import line_is_right
from stepagent.judges.comparisons import all_pairs_both_seats
from stepagent.types import Problem, Step, Usage, Verdict, Vote


class OracleJudge:
    """Prefers a right line to a wrong one; two right or two wrong ones are a tie. Asks no model."""

    async def judge(
        self, problem: Problem, prefix: Sequence[Step], candidates: Sequence[Step], seed: int
    ) -> Verdict:
        """See Judge."""
        before = [step.text for step in prefix]
        right = [line_is_right(problem.question, before, step.content) for step in candidates]

        async def compare(first: int, second: int) -> tuple[Vote, Usage]:
            if right[first] == right[second]:
                return Vote(first, second, "tie"), Usage()
            return Vote(first, second, "first" if right[first] else "second"), Usage()

        return await all_pairs_both_seats(len(candidates), compare, seed)
