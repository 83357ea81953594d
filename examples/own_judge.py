"""An own judge: among siblings the shortest step is best.

    python examples/own_judge.py config.yaml found

A config names it as `judge: {kind: "own_judge:ShortestStep", params: {slack: 2}}`, with this folder on PYTHONPATH.
"""

import sys
from collections.abc import Sequence

import stepagent
from stepagent import Problem, Step, Verdict


class ShortestStep:
    """Judge that prefers short steps; lengths that differ by less than `slack` characters are no signal."""

    def __init__(self, slack: int = 1) -> None:
        self.slack = slack

    async def judge(self, problem: Problem, prefix: Sequence[Step], candidates: Sequence[Step], seed: int) -> Verdict:
        scores = tuple(-float(len(step.content)) for step in candidates)
        best, worst = scores.index(max(scores)), scores.index(min(scores))
        if scores[best] - scores[worst] < self.slack:
            return Verdict("no_signal", scores)
        return Verdict("ok", scores, best, worst, margin=0.9)


if __name__ == "__main__":
    config = stepagent.load_config(sys.argv[1], ["judge={kind: own_judge:ShortestStep}"])
    for row in stepagent.search(config, sys.argv[2]).preferences():
        print(f"{row.chosen!r} before {row.rejected!r}")
