"""How a judge behaves: agreement of its seats, and what sways it. Counts add up over levels and trees."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from itertools import combinations

from stepagent.judges.comparisons import winner
from stepagent.types import Step, Verdict


@dataclass(frozen=True, slots=True)
class JudgeCounts:
    """Votes: all, those for the first seat and for the second, ties, unparsed, failed, asked again. Pairs:
    those answered in both seats, those where both agree; of the agreed with a winner (or of two scores that
    differ) those of different length and those that the longer one won, those of different likelihood per
    token and those that the likelier one won (self-preference, if the judge is the generator). `length_*` are
    sums over levels, for the correlation of score (y) and length (x), both centred in their level."""

    votes: int = 0
    first: int = 0
    second: int = 0
    ties: int = 0
    unparsed: int = 0
    failed: int = 0
    asked_again: int = 0
    pairs: int = 0
    agreed: int = 0
    unequal_length: int = 0
    longer_won: int = 0
    unequal_likelihood: int = 0
    likelier_won: int = 0
    length_xx: float = 0.0
    length_yy: float = 0.0
    length_xy: float = 0.0

    def __add__(self, other: JudgeCounts) -> JudgeCounts:
        return JudgeCounts(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def figures(self) -> dict[str, object]:
        """The shares, for a closing table; those that nothing was counted for are left out."""
        decisive = self.first + self.second
        correlation = self.length_xy / math.sqrt(self.length_xx * self.length_yy) if self._varied else None
        shares = {
            "both seats agree": _share(self.agreed, self.pairs),
            "first seat preferred": _share(self.first, decisive),
            "ties": _share(self.ties, self.votes),
            "longer step preferred": _share(self.longer_won, self.unequal_length),
            "likelier step preferred": _share(self.likelier_won, self.unequal_likelihood),
        }
        shown: dict[str, object] = {name: text for name, text in shares.items() if text}
        if correlation is not None:
            shown["correlation of score and length"] = f"{correlation:+.2f}"
        if self.asked_again:
            shown["asked again for a verdict"] = self.asked_again
        return shown

    @property
    def _varied(self) -> bool:
        return self.length_xx > 0 and self.length_yy > 0


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f}%" if whole else ""


def measure(verdict: Verdict, candidates: Sequence[Step]) -> JudgeCounts:
    """The counts of one verdict over `candidates`."""
    votes = verdict.votes
    seats: dict[tuple[int, int], list[int | None]] = {}
    for vote in votes:
        if vote.outcome not in ("unparsed", "error"):
            seats.setdefault((min(vote.first, vote.second), max(vote.first, vote.second)), []).append(
                winner(vote)
            )
    both = {pair: set(won) for pair, won in seats.items() if len(won) > 1}
    won = [(pair, next(iter(who))) for pair, who in both.items() if len(who) == 1]
    decided = [(pair, who) for pair, who in won if who is not None]
    scores = verdict.scores
    if not votes:
        known = [i for i, score in enumerate(scores) if not math.isnan(score)]
        decided = [
            ((i, j), i if scores[i] > scores[j] else j)
            for i, j in combinations(known, 2)
            if scores[i] != scores[j]
        ]
    longer = [_larger(pair, [len(step.content) for step in candidates]) for pair, _ in decided]
    likelier = [_larger(pair, [_likelihood(step) for step in candidates]) for pair, _ in decided]
    winners = [who for _, who in decided]
    xx, yy, xy = _spread(scores, [float(len(step.content)) for step in candidates])
    return JudgeCounts(
        votes=len(votes),
        first=sum(vote.outcome == "first" for vote in votes),
        second=sum(vote.outcome == "second" for vote in votes),
        ties=sum(vote.outcome == "tie" for vote in votes),
        unparsed=sum(vote.outcome == "unparsed" for vote in votes),
        failed=sum(vote.outcome == "error" for vote in votes),
        asked_again=sum(vote.asked_again for vote in votes),
        pairs=len(both),
        agreed=len(won),
        unequal_length=sum(one is not None for one in longer),
        longer_won=sum(one == who for one, who in zip(longer, winners, strict=True)),
        unequal_likelihood=sum(one is not None for one in likelier),
        likelier_won=sum(one == who for one, who in zip(likelier, winners, strict=True)),
        length_xx=xx,
        length_yy=yy,
        length_xy=xy,
    )


def score_pair(verdict: Verdict, one: int, other: int, expected: int | None) -> tuple[bool, bool | None]:
    """(right in both seats, same in both seats) for candidates `one` and `other`; `expected` None is a
    tie. A vote that failed or could not be parsed is neither. Judges without votes are scored by the
    order of their scores; they have no seats to agree (None)."""
    votes = [vote for vote in verdict.votes if {vote.first, vote.second} == {one, other}]
    if not votes:
        if not verdict.scores:
            return False, None
        gap = verdict.scores[one] - verdict.scores[other]
        ahead = None if gap == 0 else one if gap > 0 else other
        return ahead == expected, None
    said = [winner(vote) if vote.outcome not in ("unparsed", "error") else -1 for vote in votes]
    return all(who == expected for who in said), -1 not in said and len(set(said)) == 1


def _likelihood(step: Step) -> float | None:
    return step.logprob / len(step.token_ids) if step.logprob is not None and step.token_ids else None


def _larger(pair: tuple[int, int], values: Sequence[float | None]) -> int | None:
    one, other = (values[i] for i in pair)
    if one is None or other is None or one == other:
        return None
    return pair[0] if one > other else pair[1]


def _spread(scores: Sequence[float], lengths: Sequence[float]) -> tuple[float, float, float]:
    both = [(x, y) for x, y in zip(lengths, scores, strict=False) if not math.isnan(y)]
    if len(both) < 2:
        return 0.0, 0.0, 0.0
    mean_x, mean_y = (sum(values) / len(both) for values in zip(*both, strict=True))
    centred = [(x - mean_x, y - mean_y) for x, y in both]
    return (sum(x * x for x, _ in centred), sum(y * y for _, y in centred), sum(x * y for x, y in centred))
