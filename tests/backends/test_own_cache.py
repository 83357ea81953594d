"""Models for which one batch of all requests is not exact: windows, rotary switches, recurrent layers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny_families import tiny_model

from stepagent import BackendError, Completions, Message, ModelError, Prompt, Sampling
from stepagent.backends import decoder_choice
from stepagent.backends.transformers import TransformersBackend
from stepagent.demo.make_base import make_tokenizer
from stepagent.models.loading import load_model

Make = Callable[[str], Path]

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Maker of the folder of a tiny model."""

    def make(family: str) -> Path:
        place = tmp_path_factory.mktemp("family") / family
        tiny_model(family).save_pretrained(place)
        make_tokenizer().save_pretrained(place)
        return place

    return make


def ask(text: str) -> Prompt:
    return Prompt((Message("user", text),))


async def replies(backend: TransformersBackend, *requests: tuple[Prompt, Sampling]) -> list[Completions]:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(backend.complete(prompt, sampling)) for prompt, sampling in requests]
    return [task.result() for task in tasks]


def gap(folder: Path, reply: Completions) -> float:
    """The largest difference of a reply's log-probabilities to one plain forward pass over each whole text."""
    model = load_model(folder, torch.float32, torch.device("cpu")).eval()
    worst = 0.0
    for choice in reply.choices:
        ids = torch.tensor([[*reply.prompt_ids, *choice.token_ids]])
        with torch.no_grad():
            logprobs = model(input_ids=ids, use_cache=False).logits[0].log_softmax(-1)
        start = len(reply.prompt_ids)
        plain = logprobs[start - 1 : -1].gather(1, ids[0, start:, None])[:, 0]
        worst = max(worst, (plain - torch.tensor(choice.logprobs)).abs().max().item())
    return worst


@pytest.mark.parametrize("family", ["gemma3_text", "gpt_oss", "llama4_text", "phi3-longrope", "mamba2", "qwen3_next"])
async def test_every_log_probability_is_that_of_a_plain_pass(folder: Make, family: str) -> None:
    """Short and long requests run side by side; some cross a window, or the switch of LongRoPE, in the middle."""
    place = folder(family)
    backend = TransformersBackend(str(place), device="cpu")
    requests = [
        (ask("1" * length), Sampling(n=3, temperature=1.0, max_tokens=14, seed=length)) for length in (1, 5, 12, 20, 40)
    ]
    for reply in await replies(backend, *requests):
        assert gap(place, reply) < 1e-4


async def test_what_is_sampled_does_not_depend_on_its_company(folder: Make) -> None:
    place = folder("mamba2")
    requests = [(ask("1" * n), Sampling(n=3, temperature=1.0, max_tokens=9, seed=n)) for n in range(1, 6)]
    together = await replies(TransformersBackend(str(place), device="cpu"), *requests)
    backend = TransformersBackend(str(place), device="cpu")
    alone = [await backend.complete(*request) for request in requests]
    for a, b in zip(together, alone, strict=True):
        assert [choice.token_ids for choice in a.choices] == [choice.token_ids for choice in b.choices]
    assert {choice.finish_reason for reply in alone for choice in reply.choices} == {"end", "length"}


async def test_the_window_is_no_limit(folder: Make) -> None:
    backend = TransformersBackend(str(folder("gemma3_text")), device="cpu")
    reply = await backend.complete(ask("1" * 60), Sampling(max_tokens=4))
    assert len(reply.prompt_ids) > 60
    with pytest.raises(BackendError, match="window 256"):
        await backend.complete(ask("1" * 300), Sampling())


def test_a_slow_way_says_so_once(folder: Make, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "stepagent"):
        backend = TransformersBackend(str(folder("mamba2")), device="cpu")
    assert backend.unbatched
    (line,) = [record.getMessage() for record in caplog.records if record.name == "stepagent"]
    assert line.startswith(
        "the model in this process: it runs with its own cache, a request at a time, not in one batch: "
    )


async def test_without_any_cache_the_model_still_runs(folder: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    place = folder("llama")
    fault = decoder_choice._fault

    def faulty_caches(model: object, make: object, longest: int) -> str:
        return "" if "False" in str(getattr(make, "keywords", "")) else "off"

    monkeypatch.setattr(decoder_choice, "_fault", faulty_caches)
    backend = TransformersBackend(str(place), device="cpu")
    monkeypatch.setattr(decoder_choice, "_fault", fault)
    reply = await backend.complete(ask("12"), Sampling(n=2, temperature=1.0, max_tokens=6, seed=1))
    assert gap(place, reply) < 1e-4


def test_a_model_that_cannot_be_run_is_refused(folder: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoder_choice, "_fault", lambda *_: "log-probabilities would be off by 1 nats")
    with pytest.raises(ModelError, match=r"cannot be run in this process .*; serve it, and use backend openai"):
        TransformersBackend(str(folder("llama")), device="cpu")
