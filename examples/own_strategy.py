"""An own search strategy: one level of proposals, judged, then the best step is continued greedily to the end.

    python examples/own_strategy.py config.yaml found

A config names it as `search: {kind: "own_strategy:FirstStepSearch", width: 4}`, with this folder on PYTHONPATH.
"""

import sys

import stepagent
from stepagent import Generator, Judge, Problem, StepTree


class FirstStepSearch:
    """Strategy that judges the first step alone: cheap, where the first step decides."""

    def __init__(self, generator: Generator, judge: Judge, width: int = 4) -> None:
        self.generator, self.judge, self.width = generator, judge, width

    async def search(self, problem: Problem, seed: int) -> StepTree:
        tree, width = StepTree(problem), self.width
        while not tree.path or not tree.step(tree.path[-1]).ends:
            prefix = tree.solution()
            proposal = await self.generator.propose(problem.without_answer(), prefix, width, seed + len(prefix))
            tree.context_text, tree.context_ids = proposal.context_text, proposal.context_ids
            tree.tokenizer_sha256 = proposal.tokenizer_sha256
            level = tree.add(tree.path[-1] if tree.path else None, proposal.candidates)
            level.judged, level.chosen = level.nodes, level.nodes[0]
            if len(level.nodes) > 1:
                steps = [tree.step(node) for node in level.nodes]
                level.verdict = await self.judge.judge(problem.without_answer(), prefix, steps, seed)
                level.chosen = level.nodes[level.verdict.best or 0]
            tree.path.append(level.chosen)
            width = 1
        tree.status = "ended"
        return tree


if __name__ == "__main__":
    config = stepagent.load_config(sys.argv[1], ["search={kind: own_strategy:FirstStepSearch, width: 4}"])
    for tree in stepagent.search(config, sys.argv[2]).trees():
        print(tree.problem.id, "".join(step.text for step in tree.solution()))
