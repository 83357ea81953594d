"""Counts of a judge's verdicts: positions, biases, correlations."""

from __future__ import annotations

import math

from stepagent import Usage, Verdict, Vote
from stepagent.judges.measuring import JudgeCounts, measure, score_pair
from stepagent.testing import step


def test_counts_of_a_verdict_by_hand() -> None:
    """0 and 1: both positions for 0, the longer; 0 and 2: the first position twice; 1 and 2: a tie and unparsed."""
    votes = (
        Vote(0, 1, "first"),
        Vote(1, 0, "second"),
        Vote(0, 2, "first"),
        Vote(2, 0, "first"),
        Vote(1, 2, "tie"),
        Vote(2, 1, "unparsed", asked_again=True),
    )
    verdict = Verdict("ok", (1.0, 0.0, 0.5), 0, worst=1, margin=0.8, votes=votes)
    counts = measure(verdict, [step("long\n"), step("s\n"), step("mid\n")])
    assert (counts.votes, counts.first, counts.second, counts.ties, counts.unparsed) == (6, 3, 1, 1, 1)
    assert (counts.pairs, counts.agreed, counts.asked_again) == (2, 1, 1)
    assert (counts.unequal_length, counts.longer_won) == (1, 1)
    assert (counts.unequal_likelihood, counts.likelier_won) == (1, 1), "-1 over five tokens beats -1 over two"
    figures = (counts + counts).figures()
    assert figures["both positions agree"] == "50.0%"
    assert figures["first position preferred"] == "75.0%"
    assert figures["longer step preferred"] == "100.0%"
    assert figures["asked again for a verdict"] == 2
    lengths, scores = (4.0, 1.0, 3.0), (1.0, 0.0, 0.5)
    x, y = (tuple(v - sum(values) / 3 for v in values) for values in (lengths, scores))
    expected = sum(a * b for a, b in zip(x, y, strict=True)) / math.sqrt(sum(a * a for a in x) * sum(b * b for b in y))
    assert figures["correlation of score and length"] == f"{expected:+.2f}"


def test_judges_without_positions_are_counted_by_their_scores() -> None:
    verdict = Verdict("ok", (0.2, 0.9, math.nan), 1, worst=0, margin=0.8, votes=(), usage=Usage())
    counts = measure(verdict, [step("longer\n"), step("s\n"), step("x\n")])
    assert (counts.votes, counts.pairs) == (0, 0)
    assert (counts.unequal_length, counts.longer_won) == (1, 0)
    assert "both positions agree" not in counts.figures()
    assert JudgeCounts().figures() == {}


def test_a_verdict_without_scores_is_right_about_no_pair() -> None:
    assert score_pair(Verdict("unparsed", (math.nan, math.nan)), 0, 1, expected=1) == (False, None)
    assert score_pair(Verdict("ok", (0.2, math.nan)), 0, 1, expected=0) == (False, None)
    assert score_pair(Verdict("error", ()), 0, 1, expected=None) == (False, None)
    assert score_pair(Verdict("ok", (0.2, 0.9)), 0, 1, expected=1) == (True, None)
