"""Several judges, or several votes of one, combined (a jury of models, arXiv 2404.18796)."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from typing import Literal

from stepagent.config.settings import Positive
from stepagent.interfaces import Judge, most_of
from stepagent.judges.comparisons import answered, winner
from stepagent.judges.scores import scored_verdict
from stepagent.judges.strengths import among_siblings, bradley_terry, chance
from stepagent.seeds import derive_seed
from stepagent.types import Problem, Step, Usage, Verdict, Vote


class PanelJudge:
    """Judge that asks each of `judges` `votes` times (several votes need a temperature above 0) and combines
    their opinions of every pair.

    With majority a candidate scores a point for every pair that more opinions give to it than to its rival; with
    bradley_terry its score is its strength, fitted to all opinions of all pairs.

    Best and worst are by score; the margin is the Bradley-Terry probability in both ways. The verdict carries
    no votes, because a panel has no positions of its own.
    """

    def __init__(
        self,
        judges: Sequence[Judge],
        votes: Positive = 1,
        combine: Literal["majority", "bradley_terry"] = "bradley_terry",
    ) -> None:
        self._judges = judges
        self._votes = votes
        self._combine = combine

    def most(self, width: int) -> dict[str, Usage]:
        """Return the most that one call can sample, by model."""
        total: dict[str, Usage] = {}
        for judge in self._judges:
            for model, usage in most_of(judge, width).items():
                for _ in range(self._votes):
                    total[model] = total.get(model, Usage()) + usage
        return total

    async def judge(self, problem: Problem, prefix: Sequence[Step], candidates: Sequence[Step], seed: int) -> Verdict:
        """See Judge."""
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(judge.judge(problem, prefix, candidates, derive_seed(seed, member, vote)))
                for member, judge in enumerate(self._judges)
                for vote in range(self._votes)
            ]
        verdicts = [task.result() for task in tasks]
        usage = sum((verdict.usage for verdict in verdicts), Usage())
        votes = [vote for verdict in verdicts for vote in opinions(len(candidates), verdict)]
        strengths = bradley_terry(len(candidates), votes)
        scores = strengths if self._combine == "bradley_terry" else points(len(candidates), votes)
        if not votes:
            statuses = {verdict.status for verdict in verdicts}
            missing = "no_signal" if "no_signal" in statuses or "ok" in statuses else verdicts[0].status
            error = next((verdict.error for verdict in verdicts if verdict.error), "")
            return Verdict(missing, tuple(scores), usage=usage, error=error)

        def margin(best: int, worst: int) -> float:
            return chance(strengths, best, worst)

        verdict = scored_verdict([round(score, 9) for score in scores], margin, usage, seed=seed)
        if verdict.margin is not None and verdict.margin <= 0.5:
            verdict = Verdict("no_signal", verdict.scores, usage=usage)
        return replace(verdict, values=among_siblings(strengths))


def opinions(count: int, verdict: Verdict) -> list[Vote]:
    """Return a member's votes on all pairs: its comparisons if it made any, else the order of its scores."""
    if verdict.votes:
        return answered(verdict.votes)
    indices = [i for i in range(min(count, len(verdict.scores))) if not math.isnan(verdict.scores[i])]
    votes = []
    for a, b in combinations(indices, 2):
        gap = verdict.scores[a] - verdict.scores[b]
        votes.append(Vote(a, b, "first" if gap > 0 else "second" if gap < 0 else "tie"))
    return votes


def points(count: int, votes: Sequence[Vote]) -> list[float]:
    """Return for each candidate the number of pairs that more votes give to it than to its rival."""
    leads: dict[tuple[int, int], int] = {}
    for vote in votes:
        pair = (min(vote.first, vote.second), max(vote.first, vote.second))
        choice = winner(vote)
        leads[pair] = leads.get(pair, 0) + (0 if choice is None else 1 if choice == pair[0] else -1)
    scores = [0.0] * count
    for (a, b), lead in leads.items():
        if lead:
            scores[a if lead > 0 else b] += 1
    return scores
