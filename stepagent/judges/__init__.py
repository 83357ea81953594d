"""Judges: one file per way of judging; `comparisons.py` says how many comparisons are made, in which seats."""

BUILTIN = {
    "pairwise": "stepagent.judges.pairwise:PairwiseJudge",
    "random": "stepagent.judges.random:RandomJudge",
}
