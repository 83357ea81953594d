"""Judges, one file per way of judging; `comparisons.py` chooses the comparisons."""

BUILTIN = {
    "pairwise": "stepagent.judges.pairwise:PairwiseJudge",
    "logprob": "stepagent.judges.logprob:LogprobJudge",
    "pointwise": "stepagent.judges.pointwise:PointwiseJudge",
    "listwise": "stepagent.judges.listwise:ListwiseJudge",
    "prm": "stepagent.judges.prm:PrmJudge",
    "rollouts": "stepagent.judges.rollouts:RolloutJudge",
    "calculator": "stepagent.judges.calculator:CalculatorJudge",
    "reference": "stepagent.judges.reference:ReferenceJudge",
    "panel": "stepagent.judges.panel:PanelJudge",
    "random": "stepagent.judges.random:RandomJudge",
}
