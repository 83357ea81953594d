"""The in-process backend against the model itself: exact ids, exact log-probs, stops, seeds, batching."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import torch

from stepagent import (
    BackendError,
    Completions,
    Message,
    Prompt,
    Sampling,
)
from stepagent.backends.decoding import draw
from stepagent.backends.transformers import TransformersBackend
from stepagent.models.loading import load_model
from stepagent.models.tokenizer import ChatTokenizer


def ask(text: str, prefix: str = "") -> Prompt:
    return Prompt((Message("user", text),), prefix, None if prefix else ())


async def completions_of(backend: TransformersBackend, *requests: tuple[Prompt, Sampling]) -> list[Completions]:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(backend.complete(prompt, sampling)) for prompt, sampling in requests]
    return [task.result() for task in tasks]


@pytest.fixture(scope="module")
def backend(random_model: Path) -> TransformersBackend:
    return TransformersBackend(str(random_model), device="cpu", max_rows=16)


async def test_greedy_ids_are_those_of_transformers_generate(backend: TransformersBackend, random_model: Path) -> None:
    model = load_model(random_model, torch.float32, torch.device("cpu"))
    tokenizer = ChatTokenizer(random_model).raw
    questions = ("1+2", "12-34+5", "9")
    replies = await completions_of(backend, *((ask(q), Sampling(max_tokens=20)) for q in questions))
    for question, reply in zip(questions, replies, strict=True):
        ids = tokenizer(f"<|user|>{question}<|assistant|>", return_tensors="pt")
        want = model.generate(**ids, max_new_tokens=20, do_sample=False)[0, ids["input_ids"].shape[1] :].tolist()
        assert list(reply.choices[0].token_ids) == want
        assert list(reply.prompt_ids) == ids["input_ids"][0].tolist()
        assert reply.prompt_text == f"<|user|>{question}<|assistant|>"


async def test_log_probs_are_the_models_own_at_any_temperature(
    backend: TransformersBackend, random_model: Path
) -> None:
    model = load_model(random_model, torch.float32, torch.device("cpu"))
    reply = await backend.complete(ask("1+2"), Sampling(n=5, temperature=2.0, top_p=0.9, max_tokens=12, seed=3))
    for choice in reply.choices:
        ids = torch.tensor([[*reply.prompt_ids, *choice.token_ids]])
        logprobs = model(input_ids=ids).logits[0].log_softmax(-1)
        start = len(reply.prompt_ids)
        want = [logprobs[start + i - 1, token].item() for i, token in enumerate(choice.token_ids)]
        assert choice.logprobs == pytest.approx(want, abs=1e-4)


async def test_what_a_request_samples_does_not_depend_on_its_company(random_model: Path) -> None:
    alone = TransformersBackend(str(random_model), device="cpu")
    crowd = TransformersBackend(str(random_model), device="cpu", max_rows=8)
    sampling = [Sampling(n=3, temperature=1.0, max_tokens=10, seed=seed) for seed in range(12)]
    one_by_one = [await alone.complete(ask(str(s.seed)), s) for s in sampling]
    all_at_once = await completions_of(crowd, *((ask(str(s.seed)), s) for s in sampling))
    for a, b in zip(one_by_one, all_at_once, strict=True):
        assert [c.token_ids for c in a.choices] == [c.token_ids for c in b.choices]
    assert len({c.token_ids for reply in all_at_once for c in reply.choices}) > 20, "seeds must differ"


async def test_a_stop_string_ends_a_step_exactly(backend: TransformersBackend) -> None:
    reply = await backend.complete(ask("1"), Sampling(n=16, temperature=1.5, max_tokens=60, stop=("\n", "1="), seed=1))
    steps = [choice for choice in reply.choices if choice.finish_reason == "stop"]
    assert len(steps) > 4
    for choice in steps:
        assert choice.text.endswith(("\n", "1="))
        assert "\n" not in choice.text[:-1]
        assert "1=" not in choice.text[:-2]


async def test_finish_reasons(backend: TransformersBackend) -> None:
    reply = await backend.complete(ask("1"), Sampling(n=16, temperature=1.5, max_tokens=25, seed=5))
    for choice in reply.choices:
        assert choice.finish_reason in ("end", "length")
        assert (choice.token_ids[-1] == 1) == (choice.finish_reason == "end")
        assert "<|end|>" not in choice.text
        assert len(choice.token_ids) == 25 or choice.finish_reason == "end"


async def test_a_context_beyond_the_window_is_refused(backend: TransformersBackend) -> None:
    with pytest.raises(BackendError, match="window 128"):
        await backend.complete(ask("1" * 200), Sampling())


async def test_the_window_bounds_what_is_sampled(backend: TransformersBackend) -> None:
    reply = await backend.complete(ask("1" * 116), Sampling(n=4, temperature=1.0, max_tokens=500))
    assert all(len(choice.token_ids) <= 10 for choice in reply.choices)


async def test_a_cancelled_request_leaves_the_backend_usable(random_model: Path) -> None:
    backend = TransformersBackend(str(random_model), device="cpu")
    task = asyncio.create_task(backend.complete(ask("1"), Sampling(n=4, temperature=1.0, max_tokens=100)))
    await asyncio.sleep(0.01)
    task.cancel()
    assert (await backend.complete(ask("2"), Sampling(max_tokens=3))).choices


async def test_special_tokens_in_a_prefix_stay_out_of_the_context_text(backend: TransformersBackend) -> None:
    ids = (2, 7, 8)
    reply = await backend.complete(Prompt((Message("user", "1"),), "01", ids), Sampling(max_tokens=2))
    assert reply.prompt_text == "<|user|>1<|assistant|>01"
    assert reply.prompt_ids[-3:] == ids


async def test_whoever_waits_hears_of_a_failure(random_model: Path) -> None:
    backend = TransformersBackend(str(random_model), device="cpu")

    def crash(*_: object, **__: object) -> None:
        raise TypeError("no such argument")

    backend._decoders.short._model.forward = crash
    with pytest.raises(TypeError, match="no such argument"):
        await asyncio.wait_for(backend.complete(ask("1"), Sampling()), 10)

    def out_of_memory(*_: object, **__: object) -> None:
        raise RuntimeError("out of memory\nmore")

    backend._decoders.short._model.forward = out_of_memory
    with pytest.raises(BackendError, match="generation failed: out of memory; if memory ran out, lower"):
        await asyncio.wait_for(backend.complete(ask("1"), Sampling()), 10)


async def test_eager_attention_gives_the_same(random_model: Path, backend: TransformersBackend) -> None:
    eager = TransformersBackend(str(random_model), device="cpu")
    eager._decoders.short._model.set_attn_implementation("eager")
    requests = [(ask("1" * n), Sampling(max_tokens=12)) for n in (2, 9, 30)]
    eager_replies, replies = await completions_of(eager, *requests), await completions_of(backend, *requests)
    assert [r.choices[0].token_ids for r in eager_replies] == [r.choices[0].token_ids for r in replies]


def test_draw_follows_the_nucleus() -> None:
    """Chances 0.5, 0.3, 0.2: with top_p 0.7 the last is outside and 0.5 : 0.3 share the line."""
    logits = torch.tensor([0.5, 0.3, 0.2]).log().repeat(5, 1)
    points = [0.0, 0.62, 0.63, 0.999, 0.7]
    tokens, logprobs = draw(logits, [1.0] * 4 + [0.0], [0.7] * 5, uniforms=points)
    assert tokens.tolist() == [0, 0, 1, 1, 0]
    assert logprobs.exp().tolist() == pytest.approx([0.5, 0.5, 0.3, 0.3, 0.5])


async def test_the_embedded_model_gives_the_likeliest_first_tokens(random_model: Path) -> None:
    backend = TransformersBackend(str(random_model))
    reply = await backend.complete(Prompt((Message("user", "1+1"),)), Sampling(n=2, max_tokens=2, top_logprobs=5))
    plain = await backend.complete(Prompt((Message("user", "1+1"),)), Sampling(max_tokens=2))
    assert plain.choices[0].first is None
    first = reply.choices[0].first
    assert first is not None
    assert len(first) == 5
    assert first[0][1] == pytest.approx((reply.choices[0].logprobs or ())[0], abs=1e-5), "T=0 takes the likeliest"
    assert [logprob for _, logprob in first] == sorted((logprob for _, logprob in first), reverse=True)
