"""Proposing steps: merging, flaws, and token-exact continuation."""

from __future__ import annotations

import pytest

from stepagent import Problem
from stepagent.backends.scripted import END_ID, Rule, ScriptedBackend
from stepagent.generators.sample import SampleGenerator, goes_round, merge
from stepagent.testing import step


@pytest.mark.parametrize(
    ("boundary", "reply", "first", "stop"),
    [
        ("marker", "Step 1: add\nStep 2: done", "Step 1: add\nStep 2:", "\nStep 2:"),
        ("line", "add\ndone", "add\n", "\n"),
        ("blank_line", "add\nup\n\ndone", "add\nup\n\n", "\n\n"),
    ],
)
async def test_a_step_owns_the_terminator_it_sampled(boundary: str, reply: str, first: str, stop: str) -> None:
    generator = SampleGenerator(ScriptedBackend([Rule("", (reply,))]), boundary=boundary)
    proposal = await generator.propose(Problem("p", "q"), [], width=3, seed=0)
    (candidate,) = proposal.candidates
    assert candidate.step.count == 3
    assert candidate.step.text == first
    assert candidate.step.content == first.removesuffix(stop).removeprefix("Step 1: ")
    assert candidate.step.token_ids == tuple(first.encode())
    assert not candidate.step.ends


async def test_the_next_step_starts_where_the_last_one_ended_token_by_token() -> None:
    backend = ScriptedBackend([Rule("2:$", (" done",)), Rule("", ("Step 1: add\nStep 2: x",))])
    generator = SampleGenerator(backend)
    first_step = (await generator.propose(Problem("p", "q"), [], 1, 0)).candidates[0].step
    proposal = await generator.propose(Problem("p", "q"), [first_step], 1, 0)
    second_step = proposal.candidates[0].step
    assert backend.prompts[1].prefix_ids == first_step.token_ids
    assert second_step.text == " done"
    assert second_step.ends
    assert second_step.token_ids == (*b" done", END_ID)
    assert proposal.context_ids == tuple(proposal.context_text.encode()), "the context is without the prefix"


def test_equal_steps_are_merged_and_counted_but_not_across_an_end() -> None:
    merged = merge([step("a  b\n"), step("c\n"), step("a b \n"), step("c", ends=True)], [])
    assert [(c.step.content, c.step.ends, c.step.count) for c in merged] == [
        ("a  b", False, 2),
        ("c", False, 1),
        ("c", True, 1),
    ]


def test_flaws_are_marked() -> None:
    merged = merge(
        [
            step("\n"),
            step("again\n"),
            step("so x is 2 " * 6 + "\n"),
            step("1+1+1=3\n"),
        ],
        [step("again\n")],
    )
    assert [c.flaws for c in merged] == [("empty",), ("repeating",), ("repeating",), ()]


async def test_a_step_that_reaches_the_token_limit_is_a_runaway() -> None:
    generator = SampleGenerator(ScriptedBackend([Rule("", ("abcdefgh\n",))]), boundary="line", max_tokens=4)
    (candidate,) = (await generator.propose(Problem("p", "q"), [], 2, 0)).candidates
    assert candidate.flaws == ("runaway",)
    assert candidate.step.text == "abcd"


@pytest.mark.parametrize(
    "fine", ["x = 0.3333333333333333333333", "so 10000000000000000000000", "-" * 40, "no no no no no"]
)
def test_repeated_digits_or_rules_are_no_loop(fine: str) -> None:
    assert not goes_round(fine)


def test_looking_for_loops_takes_no_time() -> None:
    assert goes_round("x" + "ab" * 20000)
    assert not goes_round("ab" * 20000 + "x")
