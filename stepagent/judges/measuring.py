"""Measures of a judge: agreement between positions, and its biases. Counts add up over levels and trees."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from stepagent.judges.comparisons import winner
from stepagent.types import Step, Verdict


@dataclass(frozen=True, slots=True)
class JudgeCounts:
    """Counts of a judge's votes and pairs.

    `votes` counts all votes; `first` and `second` those for the first and the second position; `ties`,
    `unparsed`, `failed` and `asked_again` the votes that their names say. `pairs` counts the pairs answered
    in both positions, `agreed` those on which both positions agree.

    The bias counts are over agreed pairs with a winner (for a judge without votes, pairs whose scores
    differ): `unequal_length` are those of different length, `longer_won` those that the longer step won,
    `unequal_likelihood` those of different log-probability per token, `likelier_won` those that the likelier
    step won (self-preference, if the judge is the generator). `length_*` are sums over levels, for the
    correlation of score (y) and length in characters (x), both centred in their level.
    """

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

    def __add__(self, counts: JudgeCounts) -> JudgeCounts:
        return JudgeCounts(*map(operator.add, _numbers(self), _numbers(counts)))

    def figures(self) -> dict[str, object]:
        """Return the rows of a closing table: shares as text, without those of an empty whole."""
        decisive = self.first + self.second
        correlation = self.length_xy / math.sqrt(self.length_xx * self.length_yy) if self._varied else None
        shares = {
            "both positions agree": _share(self.agreed, self.pairs),
            "first position preferred": _share(self.first, decisive),
            "ties": _share(self.ties, self.votes),
            "longer step preferred": _share(self.longer_won, self.unequal_length),
            "likelier step preferred": _share(self.likelier_won, self.unequal_likelihood),
        }
        rows: dict[str, object] = {name: text for name, text in shares.items() if text}
        if correlation is not None:
            rows["correlation of score and length"] = f"{correlation:+.2f}"
        if self.asked_again:
            rows["asked again for a verdict"] = self.asked_again
        return rows

    @property
    def _varied(self) -> bool:
        return self.length_xx > 0 and self.length_yy > 0


_numbers = operator.attrgetter(*JudgeCounts.__dataclass_fields__)  # astuple copies deeply, which takes 40 times as long


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f}%" if whole else ""


def measure(verdict: Verdict, candidates: Sequence[Step]) -> JudgeCounts:
    """Return the counts of one verdict over `candidates`."""
    votes = verdict.votes
    choices: dict[tuple[int, int], list[int | None]] = {}
    for vote in votes:
        if vote.outcome not in ("unparsed", "error"):
            pair = (min(vote.first, vote.second), max(vote.first, vote.second))
            choices.setdefault(pair, []).append(winner(vote))
    complete_pairs = {pair: set(winners) for pair, winners in choices.items() if len(winners) > 1}
    agreed_pairs = [(pair, next(iter(choice))) for pair, choice in complete_pairs.items() if len(choice) == 1]
    decisions = [(pair, choice) for pair, choice in agreed_pairs if choice is not None]
    scores = verdict.scores
    if not votes:
        indices = [i for i, score in enumerate(scores) if not math.isnan(score)]
        decisions = [
            ((i, j), i if scores[i] > scores[j] else j) for i, j in combinations(indices, 2) if scores[i] != scores[j]
        ]
    longer = [_larger(pair, [len(step.content) for step in candidates]) for pair, _ in decisions]
    likelier = [_larger(pair, [_likelihood(step) for step in candidates]) for pair, _ in decisions]
    winners = [choice for _, choice in decisions]
    xx, yy, xy = _spread(scores, [float(len(step.content)) for step in candidates])
    return JudgeCounts(
        votes=len(votes),
        first=sum(vote.outcome == "first" for vote in votes),
        second=sum(vote.outcome == "second" for vote in votes),
        ties=sum(vote.outcome == "tie" for vote in votes),
        unparsed=sum(vote.outcome == "unparsed" for vote in votes),
        failed=sum(vote.outcome == "error" for vote in votes),
        asked_again=sum(vote.asked_again for vote in votes),
        pairs=len(complete_pairs),
        agreed=len(agreed_pairs),
        unequal_length=sum(step is not None for step in longer),
        longer_won=sum(map(operator.eq, longer, winners)),
        unequal_likelihood=sum(step is not None for step in likelier),
        likelier_won=sum(map(operator.eq, likelier, winners)),
        length_xx=xx,
        length_yy=yy,
        length_xy=xy,
    )


def score_pair(verdict: Verdict, a: int, b: int, *, expected: int | None) -> tuple[bool, bool | None]:
    """Return (right in both positions, same choice in both positions) for the candidates `a` and `b`.

    `expected` is the better candidate, None for a tie. A vote that failed or could not be parsed is neither
    right nor the same. Judges without votes are read by the order of their scores; they have no positions
    that could agree (None).
    """
    votes = [vote for vote in verdict.votes if {vote.first, vote.second} == {a, b}]
    if not votes:
        if not verdict.scores or math.isnan(gap := verdict.scores[a] - verdict.scores[b]):
            return False, None
        leader = None if gap == 0 else a if gap > 0 else b
        return leader == expected, None
    choices = [winner(vote) if vote.outcome not in ("unparsed", "error") else -1 for vote in votes]
    return all(choice == expected for choice in choices), -1 not in choices and len(set(choices)) == 1


def _likelihood(step: Step) -> float | None:
    return step.logprob / len(step.token_ids) if step.logprob is not None and step.token_ids else None


def _larger(pair: tuple[int, int], values: Sequence[float | None]) -> int | None:
    a, b = (values[i] for i in pair)
    if a is None or b is None or a == b:
        return None
    return pair[0] if a > b else pair[1]


def _spread(scores: Sequence[float], lengths: Sequence[float]) -> tuple[float, float, float]:
    points = [(x, y) for x, y in zip(lengths, scores, strict=False) if not math.isnan(y)]
    if len(points) < 2:
        return 0.0, 0.0, 0.0
    mean_x, mean_y = (sum(values) / len(points) for values in zip(*points, strict=True))
    deviations = [(x - mean_x, y - mean_y) for x, y in points]
    return (
        sum(x * x for x, _ in deviations),
        sum(y * y for _, y in deviations),
        sum(x * y for x, y in deviations),
    )
