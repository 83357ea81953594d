"""Several judges, or several votes of one, combined (a jury of models, arXiv 2404.18796)."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from typing import Literal

from stepagent.config.settings import Positive
from stepagent.interfaces import Judge
from stepagent.judges.comparisons import answered, winner
from stepagent.judges.scores import scored_verdict
from stepagent.judges.strengths import among_siblings, bradley_terry, chance
from stepagent.seeds import derive_seed
from stepagent.types import Problem, Step, Usage, Verdict, Vote


class PanelJudge:
    """Asks every one of `judges` `votes` times (several votes need a temperature above 0). Each member says
    of each pair who is better.

    majority       a candidate scores a point for every pair that more members give to it than to the other
    bradley_terry  one strength for each candidate explains what all members said of all pairs

    Best and worst are those of the scores; the margin is the Bradley-Terry probability in both ways. The
    verdict carries no votes: a panel has no seats of its own.
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
        """The most that one call can sample, by model."""
        total: dict[str, Usage] = {}
        for judge in self._judges:
            for model, usage in getattr(judge, "most", lambda _: {})(width).items():
                for _ in range(self._votes):
                    total[model] = total.get(model, Usage()) + usage
        return total

    async def judge(
        self, problem: Problem, prefix: Sequence[Step], candidates: Sequence[Step], seed: int
    ) -> Verdict:
        """See Judge."""
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(judge.judge(problem, prefix, candidates, derive_seed(seed, member, vote)))
                for member, judge in enumerate(self._judges)
                for vote in range(self._votes)
            ]
        said = [task.result() for task in tasks]
        usage = sum((verdict.usage for verdict in said), Usage())
        votes = [vote for verdict in said for vote in opinions(len(candidates), verdict)]
        strengths = bradley_terry(len(candidates), votes)
        scores = strengths if self._combine == "bradley_terry" else points(len(candidates), votes)
        if not votes:
            statuses = {verdict.status for verdict in said}
            missing = "no_signal" if "no_signal" in statuses or "ok" in statuses else said[0].status
            return Verdict(missing, tuple(scores), usage=usage)

        def margin(best: int, worst: int) -> float:
            return chance(strengths, best, worst)

        verdict = scored_verdict([round(score, 9) for score in scores], margin, usage, seed)
        if verdict.margin is not None and verdict.margin <= 0.5:
            verdict = Verdict("no_signal", verdict.scores, usage=usage)
        return replace(verdict, values=among_siblings(strengths))


def opinions(count: int, verdict: Verdict) -> list[Vote]:
    """What a member says of every pair: its comparisons where it made them, else the order of its scores."""
    if verdict.votes:
        return answered(verdict.votes)
    known = [i for i in range(min(count, len(verdict.scores))) if not math.isnan(verdict.scores[i])]
    found = []
    for one, other in combinations(known, 2):
        gap = verdict.scores[one] - verdict.scores[other]
        found.append(Vote(one, other, "first" if gap > 0 else "second" if gap < 0 else "tie"))
    return found


def points(count: int, votes: Sequence[Vote]) -> list[float]:
    """For each candidate the number of pairs that more votes give to it than to the other."""
    leads: dict[tuple[int, int], int] = {}
    for vote in votes:
        pair = (min(vote.first, vote.second), max(vote.first, vote.second))
        won = winner(vote)
        leads[pair] = leads.get(pair, 0) + (0 if won is None else 1 if won == pair[0] else -1)
    scores = [0.0] * count
    for (one, other), lead in leads.items():
        if lead:
            scores[one if lead > 0 else other] += 1
    return scores
