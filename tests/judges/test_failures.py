"""A judge whose model cannot be asked: the reason reaches the verdict and the tree."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from stepagent import BackendError, Completions, Judge, Problem, Prompt, Sampling, Step, Usage
from stepagent.judges.listwise import ListwiseJudge
from stepagent.judges.logprob import LogprobJudge
from stepagent.judges.pairwise import PairwiseJudge
from stepagent.judges.panel import PanelJudge
from stepagent.judges.pointwise import PointwiseJudge
from stepagent.judges.prm import PrmJudge
from stepagent.judges.rollouts import RolloutJudge
from stepagent.strategies.step import StepSearch
from stepagent.testing import ListedGenerator, step

REASON = "Insufficient credits"


class PennilessBackend:
    """A backend and a reward model that refuse every request."""

    async def complete(self, prompt: Prompt, sampling: Sampling) -> Completions:
        raise BackendError(REASON)

    async def score(
        self, problem: Problem, prefix: Sequence[Step], candidates: Sequence[Step]
    ) -> tuple[list[float], Usage]:
        raise BackendError(REASON)


JUDGES: dict[str, Callable[[PennilessBackend], Judge]] = {
    "pairwise": PairwiseJudge,
    "pairwise, all pairs": lambda backend: PairwiseJudge(backend, comparisons="all_pairs"),
    "logprob": LogprobJudge,
    "pointwise": PointwiseJudge,
    "listwise": ListwiseJudge,
    "rollouts to the majority": lambda backend: RolloutJudge(backend, {}),
    "rollouts to the reference": lambda backend: RolloutJudge(backend, {"q": "2"}, target="reference"),
    "prm": PrmJudge,
    "panel": lambda backend: PanelJudge([PairwiseJudge(backend), PointwiseJudge(backend), PrmJudge(backend)]),
}


@pytest.mark.parametrize("kind", JUDGES)
async def test_the_reason_of_a_failure_is_in_the_verdict_and_in_the_tree(kind: str) -> None:
    judge = JUDGES[kind](PennilessBackend())
    verdict = await judge.judge(Problem("p", "q"), [], [step("1a"), step("2a"), step("3a")], 0)
    assert verdict.status == "error"
    assert REASON in verdict.error
    assert verdict.best is verdict.worst is verdict.margin is None
    tree = await StepSearch(ListedGenerator(["1a", "2a"]), judge, 2).search(Problem("p", "q"), 0)
    assert (tree.status, tree.error) == ("failed", f"judging a level failed: {REASON}")
    assert tree.levels[0].abandoned
