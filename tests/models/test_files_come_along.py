"""Files beside the weights, and ids that the weights do not have, through a whole training."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from model_faults import (
    LFS_POINTER,
    Spoil,
    all_of,
    check_sentence,
    copy_of,
    edit_json,
    with_config,
    with_file,
    with_tensors,
)

from stepagent import Message, StepagentError, StepPreference
from stepagent.config.settings import OptimizeSettings
from stepagent.files.jsonl import write_rows
from stepagent.models.tokenizer import ChatTokenizer
from stepagent.training.dpo import optimize_model
from stepagent.training.sft import SftRow, sft

Preference = Callable[..., StepPreference]
LORA = {"rank": 2, "alpha": 4}


class Steps:
    """A monitor that keeps the numbers of the steps, and raises at one of them as a killed run ends."""

    def __init__(self, last: int = 0) -> None:
        self.numbers: list[int] = []
        self._last = last

    def step(self, step: int, steps: int, metrics: dict[str, float]) -> None:
        self.numbers.append(step)
        if step == self._last:
            raise KeyboardInterrupt

    def warn(self, warning: str) -> None: ...


@pytest.fixture
def train(preference: Preference, random_model: Path, tmp_path: Path) -> Callable[..., Path]:
    """Trainer of a model on eight pairs; returns the new folder."""
    rows = [preference(ChatTokenizer(random_model), f"{i}+1=2\n", f"{i}-1=33\n") for i in range(8)]
    write_rows(tmp_path / "p.jsonl", rows)

    def run(model: Path, monitor: Steps | None = None, **settings: object) -> Path:
        options = OptimizeSettings.model_validate({"learning_rate": 1e-3, "batch_size": 2, "lora": LORA, **settings})
        out = tmp_path / "out"
        optimize_model(model, tmp_path / "p.jsonl", out, settings=options, seed=0, monitor=monitor or Steps())
        return out

    return run


FILES = {
    # the way of Llama-2-chat and Vicuna: Transformers refuses to write it
    "generation_config.json": '{"temperature": 0.6, "top_p": 0.9, "eos_token_id": [1, 4]}\n',
    "LICENSE": "Apache-2.0\n",
    "tokenizer.model": "sentencepiece\n",
    "preprocessor_config.json": '{"image_size": 4}\n',
    "modeling_mine.py": "raise SystemExit\n",
}


LOADING = "refused: told to download the folder again, no word of generation_config.json"


@pytest.mark.parametrize("lora", [pytest.param(LORA, id="lora"), pytest.param(None, id="full")])
def test_files_beside_the_weights_come_along_as_they_are(
    train: Callable[..., Path], random_model: Path, tmp_path: Path, lora: dict[str, int] | None
) -> None:
    spoil = all_of(*(with_file(name, text) for name, text in FILES.items()), with_config(mine={"a": [1]}))
    model = copy_of(random_model, tmp_path / "m", spoil)
    out = train(model, lora=lora, serving_dtype="bfloat16")
    for folder in (out, out / "serving"):
        for name in (*FILES, "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
            assert (folder / name).read_bytes() == (model / name).read_bytes()
        config = json.loads((folder / "config.json").read_text())
        base = json.loads((model / "config.json").read_text())
        assert {key: value for key, value in config.items() if key != "dtype"} == {
            key: value for key, value in base.items() if key != "dtype"
        }


DEFAULTS = {
    "temperature without sampling": {"temperature": 0.6},
    "beams without sampling": {"num_beams": 1, "early_stopping": True, "length_penalty": 2.0},
    "more replies than beams": {"num_return_sequences": 3},
    "a temperature of nothing": {"do_sample": True, "temperature": 0.0},
    "a setting of the future": {"speculation": {"depth": 3}},
}


@pytest.mark.parametrize(
    ("defaults", "lora"),
    [
        pytest.param(value, lora, id=f"{name}-{kind}")
        for name, value in DEFAULTS.items()
        for kind, lora in (("lora", LORA), ("full", None))
    ],
)
def test_defaults_of_generation_that_contradict_each_other_stop_nothing(
    train: Callable[..., Path],
    random_model: Path,
    tmp_path: Path,
    defaults: dict[str, object],
    lora: dict[str, int] | None,
) -> None:
    model = copy_of(random_model, tmp_path / "m", with_file("generation_config.json", json.dumps(defaults)))
    out = train(model, lora=lora)
    assert json.loads((out / "generation_config.json").read_text()) == defaults


MENDED: dict[str, Spoil] = {
    "generation defaults": with_file("generation_config.json", '{"do_sample": true, "temperature": 0.6}'),
    "a licence": with_file("LICENSE", "MIT"),
    "a note": with_file("README.md", "mine"),
    "a picture behind Git LFS": with_file("loss.png", LFS_POINTER),
}


@pytest.mark.parametrize("mend", [pytest.param(mend, id=name) for name, mend in MENDED.items()])
def test_mending_a_file_that_is_not_the_model_keeps_the_checkpoints(
    train: Callable[..., Path], random_model: Path, tmp_path: Path, mend: Spoil
) -> None:
    defaults = with_file("generation_config.json", '{"temperature": 0.6}')
    model = copy_of(random_model, tmp_path / "m", defaults)
    with pytest.raises(KeyboardInterrupt):
        train(model, Steps(last=3), save_steps=1)
    mend(model)
    steps = Steps()
    train(model, steps, save_steps=1)
    assert steps.numbers[0] == 3  # step 3 is logged before its checkpoint is written


def test_another_template_does_not_continue_the_work(
    train: Callable[..., Path], random_model: Path, tmp_path: Path
) -> None:
    model = copy_of(random_model, tmp_path / "m", lambda folder: None)
    with pytest.raises(KeyboardInterrupt):
        train(model, Steps(last=3), save_steps=1)
    with (model / "chat_template.jinja").open("a") as template:
        template.write("{# mine #}")
    steps = Steps()
    train(model, steps, save_steps=1)
    assert steps.numbers[0] == 1


def first_embeddings(count: int) -> Spoil:
    """Return a fault that leaves the first embeddings."""

    def rows(name: str, tensor: torch.Tensor) -> torch.Tensor:
        return tensor[:count].clone() if "embed" in name or "lm_head" in name else tensor

    cut = with_tensors(lambda tensors: {name: rows(name, tensor) for name, tensor in tensors.items()})
    return all_of(cut, lambda folder: edit_json(folder / "config.json", vocab_size=count))


def test_ids_beyond_the_embeddings_are_named_before_the_first_step(random_model: Path, tmp_path: Path) -> None:
    """The last tokens of the arithmetic world are | A B (28, 29, 30)."""
    model = copy_of(random_model, tmp_path / "m", first_embeddings(28))
    settings, steps = OptimizeSettings.model_validate({"learning_rate": 1e-3, "lora": LORA}), Steps()
    rows = [SftRow((Message("user", "1+1"),), reply) for reply in ("1", "A")]
    with pytest.raises(StepagentError) as refusal:
        sft(model, rows, tmp_path / "out", settings=settings, seed=0, monitor=steps)
    check_sentence(str(refusal.value), model, "embeddings|vocabulary")
    assert not steps.numbers
