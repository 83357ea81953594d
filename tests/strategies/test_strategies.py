"""Every strategy on a small scripted world whose best path is known."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import pytest

from stepagent import (
    Candidate,
    ConfigError,
    Generator,
    Problem,
    Proposal,
    SearchStrategy,
    Step,
    StepPreference,
    StepTree,
    Usage,
    Verdict,
)
from stepagent.judges.scores import by_chances, scored_verdict
from stepagent.preferences import level_outcome
from stepagent.strategies.beam import BeamSearch, DiverseSearch
from stepagent.strategies.best_first import BestFirstSearch
from stepagent.strategies.best_of_n import BestOfN
from stepagent.strategies.greedy import GreedySearch
from stepagent.strategies.mcts import MctsSearch
from stepagent.strategies.step import StepSearch
from stepagent.testing import RankingJudge, step

Collect = Callable[[Iterable[StepTree]], tuple[list[StepPreference], Counter[str]]]

PROBLEM = Problem("p", "q", answer="secret")
WORTH = {
    "a": 0.8, "b": 0.7, "aa": 0.3, "ab": 0.2, "ba": 0.9, "bb": 0.1,
    "aa.": 0.3, "ab.": 0.2, "ba.": 0.9, "bb.": 0.1,
}  # fmt: skip
"""A trap: "a" looks better than "b", but the best solution is "ba."."""


class Letters:
    """Two letters a step, three steps deep: a, b; then the same; then the end. Slow for the first prefix, so
    that replies do not come in the order of the questions. Whole solutions by count."""

    def __init__(self, whole: Sequence[tuple[str, int]] = ()) -> None:
        self.whole = whole

    async def propose(self, problem: Problem, prefix: Sequence[Step], width: int, seed: int) -> Proposal:
        assert problem.answer is None
        await asyncio.sleep(0.01 if prefix and prefix[0].text == "a" else 0)
        texts = ["."] if len(prefix) == 2 else ["a", "b"]
        candidates = tuple(Candidate(step(text, text == ".")) for text in texts)
        return Proposal("Q:", tuple(b"Q:"), candidates, usage=Usage(1, 2, 3), tokenizer_sha256="bytes")

    async def solve(
        self, problem: Problem, count: int, max_tokens: int, seed: int, *, greedy: bool = False
    ) -> Proposal:
        assert problem.answer is None
        samples = self.whole[:1] if greedy else self.whole
        candidates = tuple(Candidate(replace(step(text, True), count=1 if greedy else n)) for text, n in samples)
        return Proposal("Q:", tuple(b"Q:"), candidates, usage=Usage(1, 2, 3), tokenizer_sha256="bytes")


class Worth:
    """Scores each step by the path it ends."""

    async def judge(self, problem: Problem, prefix: Sequence[Step], candidates: Sequence[Step], seed: int) -> Verdict:
        before = "".join(part.text for part in prefix)
        scores = [WORTH[before + part.text] for part in candidates]
        return scored_verdict(scores, by_chances(scores), Usage(1, 1, 1), seed=seed)


def solution(tree: StepTree) -> str:
    return "".join(part.text for part in tree.solution())


async def solution_by(strategy: SearchStrategy) -> str:
    tree = await strategy.search(PROBLEM, 0)
    assert tree.status == "ended", tree
    return solution(tree)


async def test_one_beam_falls_into_the_trap_and_two_do_not() -> None:
    make = Letters(), Worth()
    assert await solution_by(StepSearch(*make, 2)) == "aa."
    assert await solution_by(BeamSearch(*make, 2, beams=1)) == "aa."
    assert await solution_by(BeamSearch(*make, 2, beams=2)) == "ba."
    assert await solution_by(DiverseSearch(*make, 2, subtrees=1)) == "aa."


async def test_best_first_comes_back_to_a_path_it_left() -> None:
    assert await solution_by(BestFirstSearch(Letters(), Worth(), 2)) == "ba."
    tree = await BestFirstSearch(Letters(), Worth(), 2, expansions=2).search(PROBLEM, 0)
    assert tree.status == "max_iterations"
    assert solution(tree) == "b", "0.7 is worth more than the mean of 0.8 and 0.3"


async def test_mcts_visits_most_what_is_worth_most() -> None:
    tree = await MctsSearch(Letters(), Worth(), 2, simulations=40).search(PROBLEM, 0)
    assert solution(tree) == "ba."
    assert len(tree.levels) <= 7, "every prefix is expanded once at most"
    greedy = await MctsSearch(Letters(), Worth(), 2, simulations=3, exploration=0).search(PROBLEM, 0)
    assert [part.parent for part in greedy.levels] == [None, 0, 1], "a (0.8), then b (0.7) over a (0.43)"


@pytest.mark.parametrize(
    "strategy",
    [
        BeamSearch(Letters(), Worth(), 2, beams=2),
        DiverseSearch(Letters(), Worth(), 2, subtrees=3),
        BestFirstSearch(Letters(), Worth(), 2),
        MctsSearch(Letters(), Worth(), 2, simulations=12),
    ],
)
async def test_only_judged_levels_on_the_path_make_pairs(collect: Collect, strategy: SearchStrategy) -> None:
    tree = await strategy.search(PROBLEM, 0)
    rows, outcomes = collect([tree])
    assert [row.depth for row in rows] == [1, 2]
    path = [part.text for part in tree.solution()]
    assert [list(row.prefix) for row in rows] == [[], path[:1]]
    assert rows[1].prompt_ids == tuple(b"Q:" + path[0].encode())
    assert outcomes["pair"] == 2
    assert sum(outcomes.values()) == len(tree.levels)
    assert set(outcomes) <= {"pair", "branch left", "all candidates alike"}
    assert {level_outcome(level) for level in tree.levels if not level.abandoned} <= {
        "pair",
        "all candidates alike",
    }
    rerun = await strategy.search(PROBLEM, 0)
    assert [node.parent for node in rerun.nodes] == [node.parent for node in tree.nodes]
    assert rerun.path == tree.path, "whatever the order in which replies come"


async def test_nodes_stand_in_the_order_of_the_questions_not_of_the_replies() -> None:
    tree = await BeamSearch(Letters(), Worth(), 2, beams=2).search(PROBLEM, 0)
    assert [level.parent for level in tree.levels[:3]] == [None, 0, 1], "the slow one comes first"


async def test_comparing_judges_serve_every_strategy() -> None:
    """Values among siblings: each level says how a step stands beside the others."""
    judge = RankingJudge({"a": 1.0, "b": 2.0}.__getitem__)
    for strategy in (
        BeamSearch(Letters(), judge, 2),
        DiverseSearch(Letters(), judge, 2),
        BestFirstSearch(Letters(), judge, 2),
        MctsSearch(Letters(), judge, 2, simulations=40),
    ):
        assert await solution_by(strategy) == "bb."


async def test_a_judge_that_gives_only_scores_serves_them_too() -> None:
    """As the judge in CONTRIBUTING.md: no values, so siblings are worth their rank."""

    class Scores:
        async def judge(
            self, problem: Problem, prefix: Sequence[Step], candidates: Sequence[Step], seed: int
        ) -> Verdict:
            scores = tuple(float(ord(part.text[0])) for part in candidates)
            return Verdict("ok", scores, scores.index(max(scores)), worst=scores.index(min(scores)), margin=0.9)

    for strategy in (
        BeamSearch(Letters(), Scores(), 2),
        DiverseSearch(Letters(), Scores(), 2),
        BestFirstSearch(Letters(), Scores(), 2),
        MctsSearch(Letters(), Scores(), 2, simulations=40),
    ):
        assert await solution_by(strategy) == "bb."


async def test_the_answer_of_most_samples_wins_or_the_judges_pick(collect: Collect) -> None:
    samples = [("answer: 7", 2), ("the answer is 5", 1), ("it is\n\\boxed{5.0}", 2), ("so nothing", 3)]
    picked = await BestOfN(Letters(samples), Worth(), 8).search(PROBLEM, 0)
    assert solution(picked) == "the answer is 5", "3 of 8, the first that says so"
    assert collect([picked]) == ([], {"not judged": 1})
    judge = RankingJudge(lambda text: float("7" in text))
    tree = await BestOfN(Letters(samples[:2]), judge, 8, pick="judge").search(PROBLEM, 0)
    assert solution(tree) == "answer: 7"
    assert [(row.chosen, row.rejected, row.chosen_ends) for row in collect([tree])[0]] == [
        ("answer: 7", "the answer is 5", True)
    ]
    assert await solution_by(GreedySearch(Letters(samples))) == "answer: 7"


def test_whole_solutions_need_a_generator_that_writes_them() -> None:
    class Steps(Generator):
        async def propose(self, *_: object) -> Proposal:
            raise NotImplementedError

    with pytest.raises(ConfigError, match=r"Steps writes steps only; .*a method 'solve'"):
        GreedySearch(Steps())


async def test_a_judge_that_fails_is_a_failed_tree_that_keeps_what_was_sampled(collect: Collect) -> None:
    class Failing:
        async def judge(self, *_: object) -> Verdict:
            return Verdict("error", ())

    for strategy in (BeamSearch, DiverseSearch, BestFirstSearch, MctsSearch):
        tree = await strategy(Letters(), Failing()).search(PROBLEM, 0)
        assert (tree.status, tree.error) == ("failed", "judging a level failed: the judge gave no reason")
        assert tree.levels
        assert collect([tree])[0] == []
        assert all(level.abandoned for level in tree.levels)


async def test_a_dead_end_is_left() -> None:
    class OneWay(Letters):
        async def propose(self, problem: Problem, prefix: Sequence[Step], width: int, seed: int) -> Proposal:
            proposal = await super().propose(problem, prefix, width, seed)
            if "".join(part.text for part in prefix) == "b":
                return Proposal("Q:", None, (Candidate(step("…"), ("runaway",)),), Usage())
            return proposal

    for strategy in (
        BeamSearch(OneWay(), Worth(), 2, beams=2),
        BestFirstSearch(OneWay(), Worth(), 2),
        MctsSearch(OneWay(), Worth(), 2, simulations=random.Random(0).randrange(20, 40)),
    ):
        assert await solution_by(strategy) == "aa."
