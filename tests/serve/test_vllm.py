"""Against a real vLLM server: token-exact steps, redeployments that are proven, and all that may go wrong."""

from __future__ import annotations

import json
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from vllm_world import make_model, make_preferences, serve_settings, train_next

from stepagent import Message, ModelError, Problem, Prompt, Sampling, StepSearch
from stepagent.backends.openai import openai_backend
from stepagent.errors import ServeError
from stepagent.files.jsonl import iter_json
from stepagent.generators.sample import SampleGenerator
from stepagent.judges.random import RandomJudge
from stepagent.models.loading import load_model
from stepagent.models.parity import probe_outputs
from stepagent.models.tokenizer import ChatTokenizer
from stepagent.preferences import preference_levels
from stepagent.serve.deployment import Deployment
from stepagent.serve.folders import served_folder, weights_sha256
from stepagent.serve.server import Server
from stepagent.types import ModelVersion, Thinking

pytestmark = pytest.mark.slow


@dataclass
class World:
    """M_1 and M_2 = M_1 + adapter, merged; a server that was started with M_1."""

    first: Path
    second: Path
    sequences: Sequence[Sequence[int]]
    server: Server
    folder: Path

    def deploy(self, path: Path, server: Server | None = None) -> Deployment:
        """Put the model of a folder on the server, told apart from the other one of the two."""
        index, against = (1, self.second) if path == self.first else (2, self.first)
        return (server or self.server).deploy(ModelVersion(index, str(path)), str(against), self.sequences)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("vllm")
    first = make_model(folder / "M_1", thinks=True)
    rows = make_preferences(first, folder / "preferences.jsonl")
    second = train_next(first, rows, folder / "M_2")
    sequences = [(*row["prompt_ids"], *row["chosen_ids"]) for _, row in iter_json(rows)]
    with Server(serve_settings(), folder / "server", lambda _: None) as server:
        start = server.deploy(ModelVersion(1, str(first)), None, sequences)
        assert (start.method, start.proof.outcome) == ("restart", "near")
        assert start.proof.to_new < 1e-4
        yield World(first, second, sequences, server, folder)


@pytest.fixture
def world_on_first(world: World) -> World:
    """The world with M_1 on its server."""
    world.deploy(world.first)
    return world


async def test_steps_are_token_exact_and_the_log_probabilities_are_transformers(world_on_first: World) -> None:
    server = world_on_first.server
    key = server.settings.api_key_env
    backend = openai_backend(server.base_url, server.name, key, tokenizer=str(world_on_first.first), ready=server.ready)
    ask = Prompt((Message("user", "12+5"),))
    sampling = Sampling(n=16, temperature=1.0, max_tokens=30, stop=("\n",), seed=3)
    first = await backend.complete(ask, sampling)
    assert await backend.complete(ask, sampling) == first, "a seeded request is repeatable on an idle server"
    counts = await backend.prefix_cache()
    assert counts is not None
    assert 0 <= counts[0] <= counts[1]
    assert counts[1] > 0
    step = next(choice for choice in first.choices if choice.finish_reason == "stop")
    assert step.text.endswith("\n")
    assert step.token_ids is not None
    second = await backend.complete(Prompt(ask.messages, step.text, step.token_ids), sampling)
    assert second.prompt_ids == (first.prompt_ids or ()) + step.token_ids
    assert second.prompt_text == first.prompt_text + step.text
    await backend.close()  # type: ignore[attr-defined]
    model = load_model(world_on_first.first, torch.float32, torch.device("cpu"))
    for reply in (first, second):
        assert reply.prompt_ids is not None
        for choice in reply.choices:
            ids = reply.prompt_ids + (choice.token_ids or ())
            (outputs,) = probe_outputs(model, [ids])
            expected = outputs.logprobs[len(reply.prompt_ids) - 1 :].tolist()
            assert choice.logprobs == pytest.approx(expected, abs=1e-3)
    assert {choice.finish_reason for choice in first.choices} >= {"stop"}


@pytest.mark.parametrize(
    ("thinking", "opening"),
    [("off", "<think>\n\n</think>\n\n"), ("hidden", ""), ("steps", "<think>\n")],
)
async def test_the_pairs_of_a_thinking_model_are_token_exact(
    world_on_first: World, thinking: Thinking, opening: str
) -> None:
    """Its template has a switch and leaves the thought to the model without it; the model opens one by chance."""
    server = world_on_first.server
    backend = openai_backend(server.base_url, server.name, server.settings.api_key_env, ready=server.ready)
    generator = SampleGenerator(
        backend, "demo_solve", "line", temperature=1.0, top_p=1.0, max_tokens=100, thinking=thinking
    )
    search = StepSearch(generator, RandomJudge(), 6, max_iterations=3)
    trees = [await search.search(Problem(str(number), f"{number}+1"), number) for number in range(16)]
    await backend.close()  # type: ignore[attr-defined]
    assert [tree.error for tree in trees if tree.error] == []
    tokenizer = ChatTokenizer(world_on_first.first)
    model = load_model(world_on_first.first, torch.float32, torch.device("cpu"))
    thoughts = Counter[str]()
    for tree in trees:
        context = tokenizer.render([Message("user", tree.problem.question)]) + opening
        assert tree.context_text == context
        assert tree.context_ids is not None
        assert tree.context_ids == tokenizer.ids(context)
        for level, row in preference_levels(tree):
            assert row.prompt_ids is not None
            assert row.prompt.startswith(context)
            # A random model also samples special tokens, which have ids and no text.
            after = tokenizer.text(row.prompt_ids[len(tree.context_ids) :], special=False)
            assert after == row.prompt.removeprefix(context)
            thoughts[row.prompt.removeprefix(context).partition("</think>")[0]] += 1
            chosen = tree.step(level.judged[level.verdict.best or 0]) if level.verdict else None
            assert chosen is not None
            assert chosen.token_ids == row.chosen_ids is not None
            (outputs,) = probe_outputs(model, [row.prompt_ids + row.chosen_ids])
            assert chosen.logprob == pytest.approx(float(outputs.logprobs[len(row.prompt_ids) - 1 :].sum()), abs=1e-2)
            if thinking == "hidden" and row.depth == 1:
                assert not row.chosen.startswith("<think>")
                assert not row.rejected.startswith("<think>")
    assert thoughts
    if thinking == "hidden":
        assert any(thought.startswith("<think>") for thought in thoughts)


def test_a_reload_in_place_is_proven_and_comes_back(world_on_first: World) -> None:
    before = json.loads((world_on_first.folder / "server" / "server.json").read_text())
    deployment = world_on_first.deploy(world_on_first.second)
    assert (deployment.method, deployment.proof.outcome, deployment.version.index, deployment.name) == (
        "reload",
        "proven",
        2,
        "policy",
    )
    assert deployment.sha256 == weights_sha256(world_on_first.second) != weights_sha256(world_on_first.first)
    assert deployment.proof.to_old is not None
    assert deployment.proof.to_new < 1e-4 < 0.05 < deployment.proof.to_old
    assert json.loads((world_on_first.folder / "server" / "server.json").read_text()) == before
    start = time.monotonic()
    assert world_on_first.deploy(world_on_first.second) == deployment, "what is served already is only proven again"
    assert time.monotonic() - start < 5
    back = world_on_first.deploy(world_on_first.first)
    assert (back.method, back.proof.outcome) == ("reload", "proven")


def test_an_adapter_is_loaded_under_a_new_name(world_on_first: World) -> None:
    server = world_on_first.server
    server.settings = server.settings.model_copy(update={"redeploy": "adapter"})
    try:
        deployment = world_on_first.deploy(world_on_first.second)
    finally:
        server.settings = server.settings.model_copy(update={"redeploy": "auto"})
    assert (deployment.method, deployment.name, deployment.proof.outcome) == ("adapter", "policy-2", "proven")
    assert set(server.client.served()) == {"policy", "policy-2"}
    server.client.unload_adapter("policy-2")


def test_corrupted_weights_fail_the_proof_and_are_rolled_back(
    world_on_first: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors.torch import load_file, save_file

    server, before = world_on_first.server, world_on_first.server.current
    broken = world_on_first.folder / "broken"
    shutil.copytree(world_on_first.second, broken, dirs_exist_ok=True)
    weights = load_file(broken / "model.safetensors")
    torch.manual_seed(0)
    noisy = {name: tensor + 0.1 * torch.randn_like(tensor) for name, tensor in weights.items()}
    save_file(noisy, broken / "model.safetensors", {"format": "pt"})
    loads = server.client.reload

    def corrupt_reload(folder: Path) -> None:
        loads(broken if folder == served_folder(world_on_first.second) else folder)

    monkeypatch.setattr(server.client, "reload", corrupt_reload)
    message = r"M_2 was not deployed: the server lies with .*M_1 is served again \(.*e-0\d nats per token"
    with pytest.raises(ServeError, match=message):
        world_on_first.deploy(world_on_first.second)
    assert server.current == before


def test_what_no_server_could_load_is_refused_before_it_is_tried(world_on_first: World) -> None:
    server, folder = world_on_first.server, world_on_first.folder
    torn = folder / "torn"
    shutil.copytree(world_on_first.second, torn, dirs_exist_ok=True)
    whole = (torn / "model.safetensors").read_bytes()
    (torn / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match=r"torn/model\.safetensors: not whole"):
        world_on_first.deploy(torn)
    wide = make_model(folder / "wide", hidden=128, thinks=True)
    with pytest.raises(ModelError, match=r"hidden_size is 128, but the served model's is 64; only"):
        world_on_first.deploy(wide)
    assert server.client.healthy()
    assert world_on_first.deploy(world_on_first.first) == server.current


def test_a_server_sleeps_during_training_and_wakes_with_the_new_weights(world_on_first: World) -> None:
    server = world_on_first.server
    server.settings = server.settings.model_copy(update={"while_training": "sleep"})
    server.rest()
    assert server.client._ask("get", "/is_sleeping")["is_sleeping"]
    assert world_on_first.deploy(world_on_first.second).proof.outcome == "proven"
    assert not server.client._ask("get", "/is_sleeping")["is_sleeping"]


def test_a_reload_that_kills_the_engine_ends_with_the_old_model_on_a_new_server(
    world_on_first: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """vLLM 0.32: after a reload from a bad folder every later request fails."""
    server = world_on_first.server
    empty = world_on_first.folder / "empty"
    empty.mkdir(exist_ok=True)
    loads = server.client.reload
    monkeypatch.setattr(server.client, "reload", lambda _: loads(empty))
    with pytest.raises(ServeError, match=r"was not deployed: .*; \S+M_1 is served again"):
        world_on_first.deploy(world_on_first.second)
    assert server.current is not None
    assert server.current.version.index == 1


def test_an_external_server_that_comes_back_with_its_first_model_is_given_the_current_one(
    world_on_first: World,
) -> None:
    managed = world_on_first.server
    managed.start(str(world_on_first.first))
    outside = Server(
        managed.settings,
        world_on_first.folder / "outside",
        lambda _: None,
        base_url=managed.base_url,
        name=managed.name,
    )
    outset = world_on_first.deploy(world_on_first.first, outside)
    assert outset.method == "found"
    change = world_on_first.deploy(world_on_first.second, outside)
    assert change.method == "reload"
    managed.start(str(world_on_first.first))
    outside.revive()
    assert outside.client.logprobs("policy", world_on_first.sequences[0]) == pytest.approx(
        probe_outputs(
            load_model(world_on_first.second, torch.float32, torch.device("cpu")), [world_on_first.sequences[0]]
        )[0].logprobs.tolist(),
        abs=1e-3,
    )
