"""`stepagent optimize --compare`: losses from the same preferences at equal step tokens."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest
import torch

from stepagent import ConfigError, StepPreference
from stepagent.config.settings import Config
from stepagent.files.jsonl import write_rows
from stepagent.models.divergence import mean_kl
from stepagent.models.loading import load_model
from stepagent.models.tokenizer import ChatTokenizer
from stepagent.stages.compare_losses import read_arms

Command = Callable[..., CompletedProcess[str]]

CONFIG = """
model: {model}
problems: {folder}/problems.jsonl
generator: {{kind: sample, prompt: demo_solve, boundary: line, max_tokens: 6}}
judge: {{kind: random}}
search: {{width: 2, max_iterations: 2}}
optimize: {{learning_rate: 1.0e-2, epochs: 2, batch_size: 4, lora: {{rank: 4}}}}
watch: {{problems: 2}}
evaluate: {{problems: {folder}/held_out.jsonl, max_tokens: 8}}
"""


@pytest.fixture
def config(random_model: Path, preference: Callable[..., StepPreference], tmp_path: Path) -> Path:
    """A config of a small model, with pairs whose rejected step is three times as long as the chosen one."""
    path = tmp_path / "c.yaml"
    path.write_text(CONFIG.format(model=random_model, folder=tmp_path))
    for name in ("problems", "held_out"):
        rows = [{"id": f"p{i}", "question": f"1{i}+12", "answer": str(22 + i)} for i in range(4)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tokenizer = ChatTokenizer(random_model)
    write_rows(tmp_path / "pairs.jsonl", [preference(tokenizer, f"={i}", f"={i}=3=4") for i in range(8)])
    return path


def test_an_arm_is_a_loss_or_settings(load: Callable[..., Config]) -> None:
    config = load("model: none\nproblems: p.jsonl\noptimize: {beta: 0.5, epochs: 3}")
    arms = read_arms(config, "sigmoid,  ipo   beta=0.05,nll_alpha=0.2 lora.rank=4")
    assert [arm.name for arm in arms] == ["sigmoid", "ipo beta=0.05", "nll_alpha=0.2 lora.rank=4"]
    assert [(arm.settings.loss, arm.settings.beta) for arm in arms] == [
        ("sigmoid", 0.5),
        ("ipo", 0.05),
        ("sigmoid", 0.5),
    ]
    assert arms[2].settings.lora
    assert arms[2].settings.lora.rank == 4
    assert {arm.settings.epochs for arm in arms} == {3}


@pytest.mark.parametrize(
    ("variants", "message"),
    [
        ("sigmoid,hinge", "--compare hinge: 'loss' input should be"),
        ("ipo beat=3", "unknown key 'beat'; did you mean 'beta'?"),
        ("ipo,ipo", "--compare: an arm is named twice"),
        ("likelihood nll_alpha=1", "loss: likelihood is the chosen steps' NLL already"),
        (" , ", "--compare: name the losses"),
    ],
)
def test_bad_arms_are_one_sentence(load: Callable[..., Config], variants: str, message: str) -> None:
    with pytest.raises(ConfigError) as failed:
        read_arms(load("model: none\nproblems: p.jsonl"), variants)
    assert message in str(failed.value)


def test_the_divergence_is_exact_and_zero_between_equal_models(random_model: Path, base_model: Path) -> None:
    texts = [((1, 2, 3), (4, 5)), ((2,), ()), ((), (3,)), ((7, 8), (9,))]
    assert mean_kl(random_model, random_model, texts) == pytest.approx(0, abs=1e-6)
    assert mean_kl(random_model, base_model, [((1,), ())]) is None
    networks = [load_model(path, torch.float32, torch.device("cpu")) for path in (random_model, base_model)]
    terms = []
    for context, reply in ((((1, 2, 3)), (4, 5)), ((7, 8), (9,))):
        for length in range(len(context), len(context) + len(reply)):
            ids = torch.tensor([[*context, *reply][:length]])
            p, q = (network(input_ids=ids).logits[0, -1].detach().double().softmax(-1) for network in networks)
            terms.append(float((p * (p / q).log()).sum()))
    assert mean_kl(random_model, base_model, texts) == pytest.approx(sum(terms) / 3, rel=1e-4)


@pytest.mark.slow
def test_arms_learn_from_equally_many_step_tokens_and_go_on_where_they_stopped(
    stepagent: Command, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    command = ("optimize", config, "--data", tmp_path / "pairs.jsonl", "--out", out, "--compare")
    monkeypatch.setenv("COLUMNS", "80")
    first = stepagent(*command, "sigmoid")
    assert first.returncode == 0, first.stderr
    model = out / "sigmoid" / "model" / "model.safetensors"
    made = model.stat().st_mtime_ns
    result = stepagent(*command, "sigmoid, likelihood")
    assert result.returncode == 0, result.stderr
    assert model.stat().st_mtime_ns == made, "an arm that is trained is not trained again"
    report = json.loads((out / "losses.json").read_text())
    arms = {arm["name"]: arm for arm in report["arms"]}
    assert report["step_tokens"] == 2 * 8 * (2 + 6)
    assert arms["sigmoid"]["epochs"] == 2
    assert arms["likelihood"]["epochs"] == pytest.approx(2 * (2 + 6) / 2)
    assert all(arm["kl"] > 0 and arm["problems"] == 4 and arm["seconds"] > 0 for arm in arms.values())
    assert all(arm["low"] <= arm["gain"] <= arm["high"] for arm in arms.values())
    steps = {name: len((out / name / "training.jsonl").read_text().splitlines()) for name in arms}
    assert steps == {"sigmoid": 4, "likelihood": 16}
    assert (out / "losses.png").stat().st_size > 5000
    lines = result.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert any(line.split()[:2] == ["likelihood", "0.0%"] for line in lines)


def test_a_model_behind_a_server_cannot_be_compared(stepagent: Command, config: Path, tmp_path: Path) -> None:
    served = ("--set", "backend={kind: openai, base_url: 'http://127.0.0.1:9/v1'}")
    command = ("optimize", config, "--data", tmp_path / "pairs.jsonl", "--out", tmp_path / "out")
    result = stepagent(*command, "--compare", "sigmoid", *served)
    assert result.returncode == 2
    assert "optimize --compare: measures each model in this process; set backend.kind: transformers" in result.stderr
    assert not (tmp_path / "out").exists()
