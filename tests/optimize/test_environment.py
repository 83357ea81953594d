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

from stepagent import StepPreference
from stepagent.files.jsonl import write_rows
from stepagent.models.tokenizer import ChatTokenizer

SCRIPT = Path(__file__).parent / "train_once.py"
SETTINGS = {"learning_rate": 5e-3, "beta": 0.5, "batch_size": 2, "lora": {"rank": 2, "alpha": 4}}
ERROR = re.compile(r"stepagent\.errors\.\w+: (.*)")


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Variables and an accelerate config file that a run finds. `mark` (a regular expression) is in the sentence
    with which it may stop; `must` says which of the two it has to do, if there is no choice; `known_fault` says what
    happens today."""

    name: str
    variables: Mapping[str, str] = field(default_factory=dict)
    config: str = ""
    mark: str = ""
    must: str = ""
    known_fault: str = ""


def variable(name: str, value: str, must: str = "", known_fault: str = "") -> Surroundings:
    """Return the surroundings with one variable, which the sentence must name."""
    return Surroundings(f"{name}={value}", {name: value}, mark=name, must=must, known_fault=known_fault)


def left_over(name: str, config: str) -> Surroundings:
    """Return the surroundings with a config file that `accelerate config` wrote for another training."""
    return Surroundings(f"accelerate config: {name}", config=config, mark="default_config.yaml")


TRACEBACK = "ends in a traceback: "
RENDEZVOUS = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29617"}
ROWS = [
    left_over("bfloat16 on a CPU", "mixed_precision: bf16\nuse_cpu: true\nnum_processes: 1\n"),
    left_over("two GPUs", "distributed_type: MULTI_GPU\nmixed_precision: fp16\nnum_processes: 2\ngpu_ids: all\n"),
    left_over("FSDP", "distributed_type: FSDP\nnum_processes: 2\nfsdp_config: {fsdp_version: 2}\n"),
    left_over("DeepSpeed", "distributed_type: DEEPSPEED\ndeepspeed_config: {zero_stage: 3}\nnum_processes: 2\n"),
    left_over("no YAML", "{{{"),
    variable("ACCELERATE_MIXED_PRECISION", "bf16"),
    variable("ACCELERATE_MIXED_PRECISION", "fp16"),
    variable("ACCELERATE_MIXED_PRECISION", "fp8"),
    variable("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4"),
    variable("ACCELERATE_TORCH_DEVICE", "meta"),
    variable("ACCELERATE_DYNAMO_BACKEND", "inductor"),
    variable("ACCELERATE_USE_DEEPSPEED", "true", must="stop"),
    variable("ACCELERATE_DEEPSPEED_CONFIG_FILE", "/nowhere/deepspeed.json"),
    variable("ACCELERATE_DEEPSPEED_ZERO_STAGE", "3"),
    variable("ACCELERATE_USE_MEGATRON_LM", "true", must="stop"),
    variable("ACCELERATE_USE_PARALLELISM_CONFIG", "true"),
    variable("ACCELERATE_USE_FSDP", "true", known_fault=TRACEBACK + "Default process group has not been initialized"),
    variable("ACCELERATE_USE_SAGEMAKER", "true", known_fault=TRACEBACK + "No module named 'smdistributed'"),
    variable("WORLD_SIZE", "2", must="stop"),
    variable("WORLD_SIZE", "two", must="stop"),
    variable("LOCAL_RANK", "0"),
    variable("LOCAL_RANK", "-1"),
    variable("RANK", "0"),
    variable("MASTER_ADDR", "node-7", must="run"),
    variable("PMI_SIZE", "2", known_fault=TRACEBACK + "MASTER_ADDR env was not set"),
    variable("OMPI_COMM_WORLD_SIZE", "2", known_fault=TRACEBACK + "MASTER_ADDR env was not set"),
    Surroundings("a launcher's five, of one process", RENDEZVOUS, must="run"),
    Surroundings("one of two, by srun", {"SLURM_NTASKS": "2", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}, must="run"),
]


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
@pytest.mark.parametrize(
    "surroundings",
    [
        pytest.param(
            row,
            id=row.name,
            marks=[pytest.mark.xfail(strict=True, reason=row.known_fault)] if row.known_fault else [],
        )
        for row in ROWS
    ],
)
def test_the_settings_win_or_one_sentence_names_the_rest(
    run: Callable[..., tuple[list[float], str]], losses: list[float], tmp_path: Path, surroundings: Surroundings
) -> None:
    curve, sentence = run(tmp_path, surroundings)
    if sentence:
        assert surroundings.must != "run", sentence
        assert re.search(surroundings.mark, sentence)
        assert len(sentence) < 300
        assert not curve
        assert not (tmp_path / "out").exists()
    else:
        assert surroundings.must != "stop"
        assert curve == losses


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
