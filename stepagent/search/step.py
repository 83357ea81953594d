"""The paper's step search (arXiv 2503.03746, section 3): propose w steps, judge them, keep the best, go on.

A level where the judge gives no signal drops the last step and its pair and samples there again, at most
`max_rollbacks` times a problem; then the problem ends as "no_signal". At the first step there is nothing
to drop: it is sampled again. Degenerate case: with one distinct candidate at every level (T=0, or a model
that is sure) this is plain decoding: such a level is followed without a verdict and makes no pair. (Read to
the letter, the paper would roll it back; a sure model would then never finish.)
"""

from __future__ import annotations

import time
from dataclasses import astuple
from typing import Annotated

from pydantic import Field

from stepagent.config import Positive
from stepagent.errors import BackendError
from stepagent.interfaces import Generator, Judge
from stepagent.seeds import derive_seed
from stepagent.tree import Level, StepTree
from stepagent.types import Problem, Usage


class StepSearch:
    """Greedy over judged steps. `max_iterations` counts turns of the loop, roll-backs included."""

    def __init__(
        self,
        generator: Generator,
        judge: Judge,
        width: Positive = 6,
        max_iterations: Positive = 20,
        max_rollbacks: Annotated[int, Field(ge=0)] = 2,
    ) -> None:
        self._generator = generator
        self._judge = judge
        self._width = width
        self._max_iterations = max_iterations
        self._max_rollbacks = max_rollbacks

    def most(self) -> dict[str, Usage]:
        """The most that one problem can sample, by model; a judge or generator that does not say counts as
        nothing."""
        total: dict[str, Usage] = {}
        for part in (self._generator, self._judge):
            for model, usage in getattr(part, "most", lambda _: {})(self._width).items():
                each = Usage(*(self._max_iterations * count for count in astuple(usage)))
                total[model] = total.get(model, Usage()) + each
        return total

    async def search(self, problem: Problem, seed: int) -> StepTree:
        """See SearchStrategy."""
        start = time.monotonic()
        tree = StepTree(problem)
        try:
            await self._grow(tree, problem.without_answer(), seed)
        except BackendError as error:
            tree.status, tree.error = "failed", str(error)
        tree.seconds = time.monotonic() - start
        return tree

    async def _grow(self, tree: StepTree, problem: Problem, seed: int) -> None:
        for turn in range(self._max_iterations):
            level = await self._level(tree, problem, derive_seed(seed, problem.id, turn))
            if level.chosen is not None:
                tree.path.append(level.chosen)
                if tree.step(level.chosen).ends:
                    tree.status = "ended"
                    return
                continue
            level.abandoned = True
            if level.verdict and level.verdict.status == "error":
                replies = [v.reply for v in level.verdict.votes if v.outcome == "error"]
                why = replies[0] if replies else "the judge gave no verdict"
                raise BackendError(f"judging a level failed: {why}")
            if tree.rollbacks == self._max_rollbacks:
                tree.status = "no_signal"
                return
            tree.rollbacks += 1
            if tree.path:
                dropped = tree.path.pop()
                next(it for it in tree.levels if it.chosen == dropped).abandoned = True

    async def _level(self, tree: StepTree, problem: Problem, seed: int) -> Level:
        """Propose and judge one level; its `chosen` stays None if there is no signal."""
        parent = tree.path[-1] if tree.path else None
        prefix = tree.solution()
        proposal = await self._generator.propose(problem, prefix, self._width, derive_seed(seed, "propose"))
        tree.context_text, tree.context_ids = proposal.context_text, proposal.context_ids
        tree.tokenizer_sha256 = proposal.tokenizer_sha256
        tree.usage += proposal.usage
        level = tree.add(parent, proposal.candidates)
        level.judged = tuple(node for node in level.nodes if not tree.nodes[node].candidate.flaws)
        if len(level.judged) == 1:
            level.chosen = level.judged[0]
        elif level.judged:
            level.verdict = await self._judge.judge(
                problem, prefix, [tree.step(n) for n in level.judged], derive_seed(seed, "judge")
            )
            tree.usage += level.verdict.usage
            if level.verdict.status == "ok":
                assert level.verdict.best is not None
                level.chosen = level.judged[level.verdict.best]
        return level
