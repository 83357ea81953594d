"""Judges: one file per way of judging; `comparisons.py` says which comparisons are made."""

BUILTIN = {
    "pairwise": "stepagent.judges.pairwise:PairwiseJudge",
    "random": "stepagent.judges.random:RandomJudge",
}
