"""A thought in process: the template's switch, and the empty thought where it has none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from dialects import CHATML, SPECIAL, THINK, THINKING, THOUGHT, write_model

from stepagent import Message, Problem, Prompt, Sampling
from stepagent.backends.transformers import TransformersBackend
from stepagent.generators.sample import SampleGenerator
from stepagent.types import Thinking

Speaker = Callable[..., Path]
SWITCH = (
    CHATML + "{% if add_generation_prompt and enable_thinking is defined %}"
    "{{ '<think>\\n' if enable_thinking else '<think>\\n\\n</think>\\n\\n' }}{% endif %}"
)
OPENED = (SPECIAL["<|im_start|>"], *b"assistant\n")


@pytest.mark.parametrize(
    ("thinking", "ids"),
    [("off", (THINK, *b"\n\n", THOUGHT, *b"\n\n")), ("hidden", ()), ("steps", (THINK, *b"\n")), (None, ())],
)
async def test_the_switch_of_a_template_is_used(speaker: Speaker, thinking: Thinking, ids: tuple[int, ...]) -> None:
    folder = speaker(SWITCH)
    write_model(folder, says=ord("x"))
    prompt = Prompt((Message("user", "q"),), thinking=thinking)
    reply = await TransformersBackend(str(folder)).complete(prompt, Sampling(max_tokens=1))
    assert reply.prompt_ids is not None
    assert reply.prompt_ids[-len(OPENED + ids) :] == OPENED + ids


async def test_a_thought_that_the_template_opens_is_closed(speaker: Speaker) -> None:
    folder = speaker(THINKING)
    write_model(folder, says=ord("x"))
    sampler = SampleGenerator(TransformersBackend(str(folder)), "demo_solve", max_tokens=4, thinking="off")
    for number in range(2):
        reply = await sampler.propose(Problem(str(number), "q"), [], 2, 0)
        (candidate,) = reply.candidates
        assert reply.context_ids is not None
        assert reply.context_ids[-2:] == (THINK, *b"\n")
        assert candidate.step.thought_ids == (*b"\n", THOUGHT, *b"\n\n")
        assert candidate.step.token_ids == tuple(b"xxxx")


async def test_a_thought_that_never_ends_is_no_step(speaker: Speaker) -> None:
    folder = speaker(CHATML)
    write_model(folder, says=THINK)
    sampler = SampleGenerator(TransformersBackend(str(folder)), "demo_solve", max_tokens=4)
    (candidate,) = (await sampler.propose(Problem("p", "q"), [], 2, 0)).candidates
    assert candidate.flaws == ("empty", "runaway")
    assert candidate.step.token_ids == (THINK,) * 5
