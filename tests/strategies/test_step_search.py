"""The paper's step search on scripted generators and judges."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

import pytest

from stepagent import (
    BackendError,
    Problem,
    Proposal,
    StepPreference,
    StepTree,
    Verdict,
)
from stepagent.preferences import level_outcome, ordered_pairs, tree_preferences
from stepagent.strategies.step import StepSearch
from stepagent.testing import ListedGenerator, RankingJudge

Collect = Callable[[Iterable[StepTree]], tuple[list[StepPreference], Counter[str]]]


PROBLEM = Problem("p", "q", answer="secret")


def number_in(text: str) -> float:
    return float(text.strip("ab."))


async def test_the_best_candidate_is_followed_and_best_against_worst_is_the_pair(collect: Collect) -> None:
    generator = ListedGenerator(["1a", "3a", "2a"], ["5.", "4."])
    tree = await StepSearch(generator, RankingJudge(number_in), width=3).search(PROBLEM, seed=1)
    assert tree.status == "ended"
    assert [s.text for s in tree.solution()] == ["3a", "5."]
    rows, outcomes = collect([tree])
    assert [(r.chosen, r.rejected, r.prefix, r.depth) for r in rows] == [
        ("3a", "1a", (), 1),
        ("5.", "4.", ("3a",), 2),
    ]
    assert rows[1].prompt == "Q:3a"
    assert rows[1].prompt_ids == tuple(b"Q:3a")
    assert rows[1].chosen_ids == (*b"5.", 256)
    assert rows[1].chosen_ends
    assert not rows[0].chosen_ends
    assert 0.5 < rows[0].margin < 1
    assert outcomes == {"pair": 2}


async def test_more_siblings_of_a_level_make_pairs_that_count_as_one() -> None:
    generator = ListedGenerator(["1a", "3a", "2a", "2b"], ["5."])
    tree = await StepSearch(generator, RankingJudge(number_in), width=4).search(PROBLEM, seed=1)
    rest, every = (list(tree_preferences(tree, pairs)) for pairs in ("best_rest", "all"))
    assert [(row.chosen, row.rejected, row.weight) for row in rest] == [
        ("3a", "1a", 1 / 3),
        ("3a", "2a", 1 / 3),
        ("3a", "2b", 1 / 3),
    ]
    assert {(row.chosen, row.rejected) for row in every} - {(row.chosen, row.rejected) for row in rest} == {
        ("2a", "1a"),
        ("2b", "1a"),
    }  # 2a and 2b are equal
    assert sum(row.weight for row in every) == pytest.approx(1)
    assert {row.prompt_ids for row in every} == {tuple(b"Q:")}


def test_margins_of_other_siblings_grow_with_their_distance_in_score() -> None:
    """Best and worst are 0.8 apart with margin 0.9: 0.4 apart is half as far above 0.5. Who has no score is in no
    pair."""
    verdict = Verdict("ok", (0.9, 0.5, float("nan"), 0.1), best=0, worst=3, margin=0.9)
    assert ordered_pairs(verdict, "best_worst") == [(0, 3, 0.9)]
    assert ordered_pairs(verdict, "all") == [
        (0, 3, 0.9),
        (0, 1, pytest.approx(0.7)),
        (1, 3, pytest.approx(0.7)),
    ]


async def test_one_distinct_candidate_is_followed_without_a_verdict(collect: Collect) -> None:
    judge = RankingJudge(number_in)
    tree = await StepSearch(ListedGenerator(["1a"], ["2."]), judge).search(PROBLEM, seed=0)
    assert tree.status == "ended"
    assert judge.calls == 0
    assert collect([tree]) == ([], {"all candidates alike": 2})


async def test_no_signal_drops_the_last_step_and_its_pair_and_samples_there_again(collect: Collect) -> None:
    generator = ListedGenerator(["1a", "2a"], ["3a", "3b"])
    tree = await StepSearch(generator, RankingJudge(number_in), max_rollbacks=2).search(PROBLEM, seed=0)
    assert tree.status == "no_signal"
    assert tree.rollbacks == 2
    assert generator.prefixes == [(), ("2a",), (), ("2a",), (), ("2a",)]
    rows, outcomes = collect([tree])
    assert [row.chosen for row in rows] == ["2a"], "only the surviving path's pair is left"
    assert outcomes == {"pair": 1, "rolled back": 2, "no signal": 3}


async def test_no_signal_at_the_first_step_samples_it_again() -> None:
    generator = ListedGenerator(["1a", "1b"])
    tree = await StepSearch(generator, RankingJudge(number_in), max_rollbacks=1).search(PROBLEM, seed=0)
    assert (tree.status, tree.path, generator.prefixes) == ("no_signal", [], [(), ()])


async def test_flawed_candidates_are_kept_in_the_tree_but_never_judged_or_followed() -> None:
    generator = ListedGenerator(["9…", "1a"], ["2."])
    tree = await StepSearch(generator, RankingJudge(number_in)).search(PROBLEM, seed=0)
    assert [s.text for s in tree.solution()] == ["1a", "2."]
    assert tree.nodes[0].candidate.flaws == ("runaway",)
    assert tree.levels[0].judged == (1,)


async def test_the_loop_ends_after_max_iterations() -> None:
    generator = ListedGenerator(*[["1a"]] * 9)
    tree = await StepSearch(generator, RankingJudge(number_in), max_iterations=4).search(PROBLEM, seed=0)
    assert tree.status == "max_iterations"
    assert len(tree.path) == 4


async def test_a_request_that_fails_for_good_is_a_record() -> None:
    class Failing:
        async def propose(self, *_: object) -> Proposal:
            raise BackendError("server gone")

    tree = await StepSearch(Failing(), RankingJudge(number_in)).search(PROBLEM, seed=0)
    assert (tree.status, tree.error) == ("failed", "server gone")


async def test_a_tree_survives_its_json_line() -> None:
    from pydantic import TypeAdapter

    generator = ListedGenerator(["1a", "2a"], ["3a", "3b"])
    tree = await StepSearch(generator, RankingJudge(number_in)).search(PROBLEM, seed=0)
    adapter = TypeAdapter(StepTree)
    copy = adapter.validate_json(adapter.dump_json(tree))
    assert copy == tree
    assert [level_outcome(level) for level in copy.levels] == [level_outcome(level) for level in tree.levels]


async def test_a_step_keeps_its_terminator_and_the_judge_reads_it_without(collect: Collect) -> None:
    contents: set[str] = set()

    def rank(content: str) -> float:
        contents.add(content)
        return number_in(content)

    generator = ListedGenerator(["1a\n", "2a\n"], ["3."])
    tree = await StepSearch(generator, RankingJudge(rank)).search(PROBLEM, seed=0)
    assert contents == {"1a", "2a"}
    assert generator.prefixes == [(), ("2a\n",)]
    assert [step.text for step in tree.solution()] == ["2a\n", "3."]
    ((row,), _) = collect([tree])
    assert (row.chosen, row.rejected) == ("2a\n", "1a\n")
    assert row.chosen_ids == tuple(b"2a\n")


async def test_a_level_whose_judge_fails_without_votes_is_a_failed_tree() -> None:
    from stepagent.strategies.step import StepSearch

    class Failing:
        async def judge(self, *_: object) -> Verdict:
            return Verdict("error", ())

    tree = await StepSearch(ListedGenerator(("a", "b")), Failing(), 2).search(PROBLEM, 0)
    assert (tree.status, tree.error) == ("failed", "judging a level failed: the judge gave no reason")
