"""The three places of a reasoning model's thought, with the ids and the costs that were really there."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest

from stepagent import Problem, StepSearch
from stepagent.backends import scripted
from stepagent.backends.scripted import END_ID, ScriptedBackend
from stepagent.generators.sample import SampleGenerator
from stepagent.preferences import tree_preferences
from stepagent.testing import RankingJudge
from stepagent.types import Proposal

PROBLEM = Problem("p", "1+1")
THOUGHT = "<think>\nadd?\n\nyes\n</think>\n\n"


def thinks(context: str, seed: int) -> str:
    """A model that opens every reply with a thought, and then writes a line and an answer."""
    half = context.rpartition("<assistant>")[2]
    if not half.rpartition("</think>")[1]:
        return THOUGHT[len(half) :] + "one\ntwo" if THOUGHT.startswith(half) else "lost"
    said = half.rpartition("</think>")[2]
    line = f"\n\nline {seed % 2}\nso {seed % 2}"
    return line[len(said) :] if line.startswith(said) else line[line.rindex("\n") + 1 :]


def generator(reply: Callable[[str, int], str], thinking: str, boundary: str = "line") -> SampleGenerator:
    return SampleGenerator(ScriptedBackend(reply=reply), boundary=boundary, max_tokens=64, thinking=thinking)


async def proposal(reply: Callable[[str, int], str], thinking: str, boundary: str = "line") -> Proposal:
    return await generator(reply, thinking, boundary).propose(PROBLEM, [], 6, 0)


@pytest.mark.parametrize("boundary", ["line", "blank_line", "marker"])
async def test_a_hidden_thought_is_in_the_context_of_all_steps_and_in_none(boundary: str) -> None:
    search = StepSearch(generator(thinks, "hidden", boundary), RankingJudge(lambda content: float("1" in content)), 6)
    tree = await search.search(PROBLEM, 3)
    assert tree.status == "ended"
    rows = list(tree_preferences(tree))
    assert rows
    thought = THOUGHT if boundary != "marker" else THOUGHT.rstrip()
    for row in rows:
        assert row.prompt_ids is not None
        assert row.prompt.partition("<assistant>")[2].startswith(thought)
        assert row.prompt_ids == tuple(row.prompt.encode()), "each context, byte for byte"
        for text, ids, ends in (
            (row.chosen, row.chosen_ids, row.chosen_ends),
            (row.rejected, row.rejected_ids, row.rejected_ends),
        ):
            assert ids == (*text.encode(), *(END_ID,) * ends)
            assert "think" not in text
    assert tree.context_text.endswith("<assistant>")
    assert all(step.thought == thought for level in tree.levels[:1] for step in map(tree.step, level.nodes))
    contents = [tree.step(node).content for level in tree.levels for node in level.nodes]
    assert contents
    assert not any("add?" in content or content == "" for content in contents)


async def test_a_hidden_thought_is_counted() -> None:
    backend = ScriptedBackend(reply=thinks)
    first = await SampleGenerator(backend, boundary="line", thinking="hidden").propose(PROBLEM, [], 2, 0)
    # Two samples that stop where a thought opens; the thought's rest; its two line breaks and the token after them;
    # two steps.
    sampled = (
        2 * len("<think>")
        + len("\nadd?\n\nyes\n</think>")
        + 3
        + sum(len(candidate.step.text) * candidate.step.count for candidate in first.candidates)
    )
    assert (first.usage.completion_tokens, first.usage.requests) == (sampled, 6)


async def test_a_thought_that_the_template_opens_is_drawn_at_once_after_the_first_problem(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def say(context: str, seed: int) -> str:
        return f"Step 1: {seed % 2}" if "</think>" in context else "\nhm\n</think> Step 1: 0"

    render = scripted.render
    monkeypatch.setattr(scripted, "render", lambda messages: render(messages) + "<think>")
    backend = ScriptedBackend(reply=say)
    sampler = SampleGenerator(backend, thinking="hidden")
    with caplog.at_level(logging.WARNING, "stepagent"):
        first = await sampler.propose(PROBLEM, [], 4, 0)
        asked = len(backend.prompts)
        second = await sampler.propose(Problem("q", "2+2"), [], 4, 0)
    assert len(backend.prompts) - asked == asked - 1
    for reply in (first, second):
        assert reply.context_text.endswith("<think>")
        assert reply.context_ids == tuple(reply.context_text.encode())
        assert {candidate.step.thought for candidate in reply.candidates} == {"\nhm\n</think>"}
    assert caplog.text.count("the model thinks") == 1, "said once"


async def test_a_thought_without_an_end_is_no_step() -> None:
    (candidate,) = (
        await proposal(lambda context, seed: ("<think>", "why? " * 99)["<think>" in context], "hidden")
    ).candidates
    assert candidate.flaws == ("empty", "runaway")
    assert candidate.step.text.startswith("<think>why? why? ")


@pytest.mark.parametrize("thinking", ["off", "hidden"])
async def test_a_model_that_opens_no_thought_is_asked_as_ever(thinking: str) -> None:
    backend = ScriptedBackend(reply=lambda context, seed: "a <think> of it\nso" if seed % 2 else "b\nso")
    first = await SampleGenerator(backend, boundary="line", thinking=thinking).propose(PROBLEM, [], 6, 0)
    assert len(backend.prompts) == 1
    assert {candidate.step.thought for candidate in first.candidates} == {""}


async def test_off_puts_an_empty_thought_where_the_model_opens_one() -> None:
    first = await proposal(thinks, "off")
    empty = "<think>\n\n</think>\n\n"
    assert first.context_ids == tuple(first.context_text.encode())
    assert first.context_text.endswith("<assistant>")
    for candidate in first.candidates:
        assert (candidate.step.thought, candidate.step.thought_ids) == (empty, tuple(empty.encode()))
    whole = await generator(thinks, "off").solve(PROBLEM, 4, 64, 0)
    assert {candidate.step.content for candidate in whole.candidates} <= {"line 0\nso 0", "line 1\nso 1"}


async def test_steps_are_those_of_the_thought() -> None:
    sampler = generator(thinks, "steps")
    first = (await sampler.propose(PROBLEM, [], 2, 0)).candidates[0].step
    second = (await sampler.propose(PROBLEM, [first], 2, 0)).candidates[0].step
    assert (first.text, second.text, first.thought) == ("<think>\n", "add?\n", "")
    (whole,) = (await sampler.solve(PROBLEM, 1, 64, 0)).candidates
    assert whole.step.text.startswith(THOUGHT)
    assert whole.step.token_ids == (*whole.step.text.encode(), END_ID)


async def test_whole_solutions_are_read_without_their_thoughts() -> None:
    (whole,) = (await generator(thinks, "hidden").solve(PROBLEM, 2, 64, 0)).candidates
    assert (whole.step.text, whole.step.token_ids) == ("one\ntwo", None)
    (cut,) = (await generator(thinks, "hidden").solve(PROBLEM, 2, 12, 0)).candidates
    assert cut.flaws == ("empty", "runaway")


async def test_a_mark_that_stops_no_sample_is_a_thought_all_the_same() -> None:
    def say(context: str, seed: int) -> str:
        reply = f"<reasoning>no</reasoning>Step 1: {seed % 2}"
        half = context.rpartition("<assistant>")[2]
        return reply[len(half) :] if reply.startswith(half) else reply

    first = await proposal(say, "hidden", "marker")
    assert {(candidate.step.thought, candidate.step.content) for candidate in first.candidates} <= {
        ("<reasoning>no</reasoning>", "0"),
        ("<reasoning>no</reasoning>", "1"),
    }
    assert first.context_ids == tuple(first.context_text.encode())
    assert {candidate.step.thought_ids for candidate in first.candidates} == {tuple(b"<reasoning>no</reasoning>")}
