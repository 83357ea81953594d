"""Left-overs in the environment change no loss, or stop the run with a sentence that names them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from stepagent import ModelError, StepPreference
from stepagent.files.jsonl import write_rows
from stepagent.models.tokenizer import ChatTokenizer
from stepagent.training.environment import prepare_environment

SCRIPT = Path(__file__).parent / "train_once.py"
SETTINGS = {"learning_rate": 5e-3, "beta": 0.5, "batch_size": 2, "lora": {"rank": 2, "alpha": 4}}
ERROR = re.compile(r"stepagent\.errors\.\w+: (.*)")


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Variables and an accelerate config file that a run finds."""

    name: str
    variables: Mapping[str, str] = field(default_factory=dict)
    config: str = ""


LEFT_OVER = {
    "ACCELERATE_MIXED_PRECISION": "bf16",
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4",
    "ACCELERATE_TORCH_DEVICE": "meta",
    "ACCELERATE_DYNAMO_BACKEND": "inductor",
    "ACCELERATE_DEEPSPEED_CONFIG_FILE": "/nowhere/deepspeed.json",
    "ACCELERATE_DEEPSPEED_ZERO_STAGE": "3",
    "MASTER_ADDR": "node-7",
    "SLURM_NTASKS": "2",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
}
RENDEZVOUS = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29617"}
HARMLESS = [
    Surroundings("left-over variables", LEFT_OVER, "mixed_precision: bf16\nuse_cpu: true\nnum_processes: 1\n"),
    Surroundings(
        "half precision and two GPUs",
        {"ACCELERATE_MIXED_PRECISION": "fp16", "ACCELERATE_USE_CPU": "no"},
        "distributed_type: MULTI_GPU\nmixed_precision: fp16\nnum_processes: 2\ngpu_ids: all\n",
    ),
    Surroundings("a launcher's five, of one process", RENDEZVOUS, "{{{"),
]
HALF = [
    ("ACCELERATE_USE_DEEPSPEED", "true"),
    ("ACCELERATE_USE_MEGATRON_LM", "true"),
    ("ACCELERATE_USE_PARALLELISM_CONFIG", "true"),
    ("ACCELERATE_USE_SAGEMAKER", "true"),
    ("ACCELERATE_USE_FSDP", "true"),
    ("WORLD_SIZE", "2"),
    ("WORLD_SIZE", "two"),
    ("LOCAL_RANK", "0"),
    ("LOCAL_RANK", "-1"),
    ("RANK", "0"),
    ("PMI_SIZE", "2"),
    ("OMPI_COMM_WORLD_SIZE", "2"),
]


@pytest.mark.parametrize(("name", "value"), HALF)
def test_half_a_launcher_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    for variable in [*RENDEZVOUS, *(each for each, _ in HALF)]:
        monkeypatch.delenv(variable, raising=False)
    prepare_environment()
    monkeypatch.setenv(name, value)
    with pytest.raises(ModelError, match=f"^the environment has {name}.* unset") as refusal:
        prepare_environment()
    assert "\n" not in str(refusal.value)


@pytest.fixture(scope="module")
def run(
    preference: Callable[..., StepPreference], random_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., tuple[list[float], str]]:
    """Trainer in a process of its own: returns the losses, and the sentence with which it stopped."""
    home = tmp_path_factory.mktemp("environment")
    tokenizer = ChatTokenizer(random_model)
    write_rows(home / "p.jsonl", [preference(tokenizer, f"{i}+1=2\n", f"{i}-1=34\n") for i in range(8)])
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("ACCELERATE_", "SLURM_"))}

    def train(folder: Path, surroundings: Surroundings, **settings: object) -> tuple[list[float], str]:
        if surroundings.config:
            (folder / "accelerate").mkdir(parents=True)
            (folder / "accelerate" / "default_config.yaml").write_text(surroundings.config)
        curve = folder / "curve.json"
        words = [random_model, home / "p.jsonl", folder / "out", curve, json.dumps({**SETTINGS, **settings})]
        result = subprocess.run(
            [sys.executable, str(SCRIPT), *map(str, words)],
            env={**plain, "OMP_NUM_THREADS": "1", "HF_HOME": str(folder), **surroundings.variables},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        sentences = ERROR.findall(result.stderr)
        # the script shows every error as Python does; the command prints a StepagentError as its sentence alone
        assert result.returncode == 0 or sentences, result.stderr[-2000:]
        losses = json.loads(curve.read_text()) if curve.is_file() else []
        return losses, sentences[-1] if result.returncode else ""

    return train


@pytest.fixture(scope="module")
def losses(run: Callable[..., tuple[list[float], str]], tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    """The losses of a run with nothing around it."""
    curve, sentence = run(tmp_path_factory.mktemp("plain"), Surroundings("nothing"))
    assert not sentence
    assert len(curve) == 4
    return curve


@pytest.mark.slow
@pytest.mark.parametrize("surroundings", HARMLESS, ids=lambda surroundings: surroundings.name)
def test_the_settings_of_the_run_win(
    run: Callable[..., tuple[list[float], str]], losses: list[float], tmp_path: Path, surroundings: Surroundings
) -> None:
    assert run(tmp_path, surroundings) == (losses, "")


@pytest.mark.slow
@pytest.mark.parametrize("lora", [SETTINGS["lora"], None], ids=["lora", "full"])
def test_bfloat16_on_a_cpu_trains_or_is_named(
    run: Callable[..., tuple[list[float], str]], losses: list[float], tmp_path: Path, lora: object
) -> None:
    curve, sentence = run(tmp_path, Surroundings("bfloat16"), dtype="bfloat16", lora=lora)
    if sentence:
        assert "dtype" in sentence
        assert not curve
    else:
        assert curve[0] == pytest.approx(losses[0], abs=1e-3)
        assert len(curve) == len(losses)
