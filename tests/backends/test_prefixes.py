"""Prompts that begin alike: what is computed once, and that it changes nothing."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import torch

from stepagent.backends.decoding import draw
from stepagent.backends.prefixes import Prefixes, States
from stepagent.backends.transformers import TransformersBackend
from stepagent.types import Completions, Message, Prompt, Sampling


def states(tokens: int) -> States:
    """States of one layer: 2 heads x `tokens` x 4 numbers of 4 bytes, twice, so 64 bytes a token."""
    keys = torch.arange(tokens * 8.0).reshape(2, tokens, 4)
    return [(keys, -keys)]


def test_the_longest_beginning_is_found_but_never_the_last_token() -> None:
    prefixes = Prefixes(room=10_000)
    prefixes.add([1, 2, 3, 4], states(4))
    prefixes.add([1, 2, 9], states(3))
    assert prefixes.longest([1, 2, 3, 7]).length == 3
    assert prefixes.longest([1, 2, 3, 4]).length == 3, "the logits behind the last token are wanted"
    assert prefixes.longest([1, 2, 9, 9, 9]).length == 3
    assert prefixes.longest([5, 1, 2]).length == 0
    assert prefixes.longest([]).length == 0


def test_the_states_that_were_not_used_for_longest_go_first() -> None:
    prefixes = Prefixes(room=7 * 64)
    prefixes.add([1, 2, 3], states(3))
    prefixes.add([4, 5, 6], states(3))
    assert prefixes.longest([1, 2, 3, 0]).length == 3
    prefixes.add([7, 8], states(2))
    assert prefixes.longest([4, 5, 6, 0]).length == 0
    assert prefixes.longest([1, 2, 3, 0]).length == 3
    prefixes.add([1, 2, 3, 4, 5], states(5))  # takes the place of what it continues: 2 + 5 tokens
    assert prefixes.longest([7, 8, 0]).length == 2
    assert prefixes.longest([1, 2, 3, 4, 5, 6]).length == 5


@pytest.mark.parametrize("top_p", [1.0, 0.9, 0.5, 1e-6])
@pytest.mark.parametrize("sharpness", [0.01, 1.0, 8.0])
def test_a_draw_from_a_large_vocabulary_is_that_of_the_whole_sorted_one(top_p: float, sharpness: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = sharpness * torch.randn(64, 5000, generator=generator)
    points = torch.rand(64, generator=generator).tolist()
    tokens, logprobs = draw(logits, [1.0] * 64, [top_p] * 64, uniforms=points)
    for row, point in enumerate(points):
        chances, order = logits[row].double().softmax(-1).sort(descending=True)
        inside = chances[: int((chances.cumsum(-1) - chances < top_p).sum())]
        sums = inside.cumsum(-1)
        rank = min(int((sums <= point * float(sums[-1])).sum()), len(inside) - 1)
        # float32 sums may fall on the other side of a border between two tokens
        assert int(tokens[row]) in order[max(rank - 1, 0) : rank + 2].tolist()
        assert float(logprobs[row]) == pytest.approx(float(logits[row].log_softmax(-1)[tokens[row]]), abs=1e-5)


def test_what_was_computed_before_changes_no_sample(random_model: Path) -> None:
    sampling = Sampling(n=2, max_tokens=6, temperature=1.0, seed=3)
    texts = ["1+2+3=", "1+2+3+4=", "1+2+", "9*8="]

    async def replies(backend: TransformersBackend, names: list[str]) -> list[Completions]:
        prompts = [Prompt((Message("user", text * 9),)) for text in names]
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(backend.complete(prompt, sampling)) for prompt in prompts]
        return [task.result() for task in tasks]

    async def one_after_another() -> list[Completions]:
        return [(await replies(TransformersBackend(str(random_model), device="cpu"), [text]))[0] for text in texts]

    alone = asyncio.run(one_after_another())
    backend = TransformersBackend(str(random_model), device="cpu")

    async def twice() -> list[Completions]:
        await replies(backend, texts)
        return await replies(backend, texts)

    for apart, shared in zip(alone, asyncio.run(twice()), strict=True):
        assert [choice.token_ids for choice in apart.choices] == [choice.token_ids for choice in shared.choices]
        for one, other in zip(apart.choices, shared.choices, strict=True):
            assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)
