"""Against a real vLLM server: token-exact steps, redeployments that are proven, and all that may go wrong."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from vllm_world import make_model, make_preferences, serve_settings, train_next

from stepagent import Message, ModelError, Prompt, Sampling
from stepagent.backends.openai import openai_backend
from stepagent.errors import ServeError
from stepagent.files.jsonl import iter_json
from stepagent.models.loading import load_model
from stepagent.models.parity import probe_outputs
from stepagent.serve.folders import served_folder, weights_sha256
from stepagent.serve.server import Model, Server

pytestmark = pytest.mark.slow


@dataclass
class World:
    """M_1 and M_2 = M_1 + adapter, merged; a server that was started with M_1."""

    one: Path
    two: Path
    sequences: Sequence[Sequence[int]]
    server: Server
    folder: Path

    def model(self, path: Path) -> Model:
        against = self.one if path != self.one else self.two
        return Model(str(path), 1 if path == self.one else 2, str(against), self.sequences)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("vllm")
    one = make_model(folder / "M_1")
    rows = make_preferences(one, folder / "preferences.jsonl")
    two = train_next(one, rows, folder / "M_2")
    sequences = [(*row["prompt_ids"], *row["chosen_ids"]) for _, row in iter_json(rows)]
    with Server(serve_settings(), folder / "server", lambda _: None) as server:
        first = server.deploy(Model(str(one), 1, None, sequences))
        assert (first.method, first.proof.outcome) == ("restart", "near")
        assert first.proof.to_new < 1e-4
        yield World(one, two, sequences, server, folder)


@pytest.fixture
def on_one(world: World) -> World:
    """The world with M_1 on its server."""
    world.server.deploy(world.model(world.one))
    return world


async def test_steps_are_token_exact_and_the_log_probabilities_are_transformers(on_one: World) -> None:
    server = on_one.server
    key = server.settings.api_key_env
    used = openai_backend(server.base_url, server.name, key, tokenizer=str(on_one.one), ready=server.ready)
    ask = Prompt((Message("user", "12+5"),))
    sampling = Sampling(n=16, temperature=1.0, max_tokens=30, stop=("\n",), seed=3)
    first = await used.complete(ask, sampling)
    assert await used.complete(ask, sampling) == first, "a seeded request is repeatable on an idle server"
    counts = await used.prefix_cache()
    assert counts is not None
    assert 0 <= counts[0] <= counts[1]
    assert counts[1] > 0
    step = next(choice for choice in first.choices if choice.finish_reason == "stop")
    assert step.text.endswith("\n")
    assert step.token_ids is not None
    second = await used.complete(Prompt(ask.messages, step.text, step.token_ids), sampling)
    assert second.prompt_ids == (first.prompt_ids or ()) + step.token_ids
    assert second.prompt_text == first.prompt_text + step.text
    await used.close()  # type: ignore[attr-defined]
    model = load_model(on_one.one, torch.float32, torch.device("cpu"))
    for reply in (first, second):
        assert reply.prompt_ids is not None
        for choice in reply.choices:
            ids = reply.prompt_ids + (choice.token_ids or ())
            (outputs,) = probe_outputs(model, [ids])
            mine = outputs.logprobs[len(reply.prompt_ids) - 1 :].tolist()
            assert choice.logprobs == pytest.approx(mine, abs=1e-3)
    assert {choice.finish_reason for choice in first.choices} >= {"stop"}


def test_a_reload_in_place_is_proven_and_comes_back(on_one: World) -> None:
    server = on_one.server
    before = json.loads((on_one.folder / "server" / "server.json").read_text())
    done = server.deploy(on_one.model(on_one.two))
    assert (done.method, done.proof.outcome, done.round, done.name) == ("reload", "proven", 2, "policy")
    assert done.sha256 == weights_sha256(on_one.two) != weights_sha256(on_one.one)
    assert done.proof.to_old is not None
    assert done.proof.to_new < 1e-4 < 0.05 < done.proof.to_old
    assert json.loads((on_one.folder / "server" / "server.json").read_text()) == before
    start = time.monotonic()
    assert server.deploy(on_one.model(on_one.two)) == done, "what is served already is only proven again"
    assert time.monotonic() - start < 5
    back = server.deploy(on_one.model(on_one.one))
    assert (back.method, back.proof.outcome) == ("reload", "proven")


def test_an_adapter_is_loaded_under_a_new_name(on_one: World) -> None:
    server = on_one.server
    server.settings = server.settings.model_copy(update={"redeploy": "adapter"})
    try:
        done = server.deploy(on_one.model(on_one.two))
    finally:
        server.settings = server.settings.model_copy(update={"redeploy": "auto"})
    assert (done.method, done.name, done.proof.outcome) == ("adapter", "policy-2", "proven")
    assert set(server.client.served()) == {"policy", "policy-2"}
    server.client.unload_adapter("policy-2")


def test_corrupted_weights_fail_the_proof_and_are_rolled_back(on_one: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from safetensors.torch import load_file, save_file

    server, before = on_one.server, on_one.server.current
    broken = on_one.folder / "broken"
    shutil.copytree(on_one.two, broken, dirs_exist_ok=True)
    weights = load_file(broken / "model.safetensors")
    torch.manual_seed(0)
    noisy = {name: tensor + 0.1 * torch.randn_like(tensor) for name, tensor in weights.items()}
    save_file(noisy, broken / "model.safetensors", {"format": "pt"})
    loads = server.client.reload

    def rotten(folder: Path) -> None:
        loads(broken if folder == served_folder(on_one.two) else folder)

    monkeypatch.setattr(server.client, "reload", rotten)
    said = r"M_2 was not deployed: the server lies with .*M_1 is served again \(.*e-0\d nats per token"
    with pytest.raises(ServeError, match=said):
        server.deploy(on_one.model(on_one.two))
    assert server.current == before


def test_what_no_server_could_load_is_refused_before_it_is_tried(on_one: World) -> None:
    server, folder = on_one.server, on_one.folder
    torn = folder / "torn"
    shutil.copytree(on_one.two, torn, dirs_exist_ok=True)
    whole = (torn / "model.safetensors").read_bytes()
    (torn / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match=r"torn/model\.safetensors: not whole"):
        server.deploy(on_one.model(torn))
    wide = make_model(folder / "wide", hidden=128)
    with pytest.raises(ModelError, match=r"hidden_size is 128, but the served model's is 64; only"):
        server.deploy(on_one.model(wide))
    assert server.client.healthy()
    assert server.deploy(on_one.model(on_one.one)) == server.current


def test_a_server_sleeps_during_training_and_wakes_with_the_new_weights(on_one: World) -> None:
    server = on_one.server
    server.settings = server.settings.model_copy(update={"while_training": "sleep"})
    server.rest()
    assert server.client._ask("get", "/is_sleeping")["is_sleeping"]
    assert server.deploy(on_one.model(on_one.two)).proof.outcome == "proven"
    assert not server.client._ask("get", "/is_sleeping")["is_sleeping"]


def test_a_reload_that_kills_the_engine_ends_with_the_old_model_on_a_new_server(
    on_one: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """vLLM 0.32: after a reload from a bad folder every later request fails."""
    server = on_one.server
    empty = on_one.folder / "empty"
    empty.mkdir(exist_ok=True)
    loads = server.client.reload
    monkeypatch.setattr(server.client, "reload", lambda _: loads(empty))
    with pytest.raises(ServeError, match=r"was not deployed: .*; \S+M_1 is served again"):
        server.deploy(on_one.model(on_one.two))
    assert server.current is not None
    assert server.current.round == 1


def test_an_external_server_that_comes_back_with_its_first_model_is_given_the_current_one(
    on_one: World,
) -> None:
    managed = on_one.server
    managed.start(str(on_one.one))
    outside = Server(
        managed.settings, on_one.folder / "outside", lambda _: None, base_url=managed.base_url, name=managed.name
    )
    found = outside.deploy(Model(str(on_one.one), 1, str(on_one.two), on_one.sequences))
    assert found.method == "found"
    now = outside.deploy(on_one.model(on_one.two))
    assert now.method == "reload"
    managed.start(str(on_one.one))
    outside.revive()
    assert outside.client.logprobs("policy", on_one.sequences[0]) == pytest.approx(
        probe_outputs(load_model(on_one.two, torch.float32, torch.device("cpu")), [on_one.sequences[0]])[
            0
        ].logprobs.tolist(),
        abs=1e-3,
    )
