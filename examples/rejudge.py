"""Judge an old search anew with another judge, and see where the two disagree: nothing is sampled again.

python examples/rejudge.py config.yaml found again
"""

import sys
from pathlib import Path

import stepagent

config, searched, out = sys.argv[1:]
again = stepagent.judge_trees(stepagent.load_config(config, ["judge={kind: random}"]), f"{searched}/trees.jsonl", out)
before = {tree.problem.id: tree for tree in stepagent.Found(Path(searched)).trees()}
for tree in again.trees():
    for old, new in zip(before[tree.problem.id].levels, tree.levels, strict=True):
        if old.verdict and new.verdict and old.verdict.best != new.verdict.best:
            print(f"{tree.problem.id}: {old.verdict.best} became {new.verdict.best}")
