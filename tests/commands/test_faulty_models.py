"""Faulty model folders through the installed command: exit 2, one line, and nothing written."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

LFS_POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 3087467144\n"
CODE = "from pathlib import Path\nPath('ran').touch()\nraise SystemExit('a stranger was here')\n"
OWN = re.compile("step-DPO, alone |backend: transformers, ")  # of our own progress
PAIR = {"prompt": "1+1=", "chosen": "2", "rejected": "9"}


def set_keys(file: Path, **keys: object) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **keys}))


def no_head(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors["lm_head.weight"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def cut_weights(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:9000])


def other_shapes(folder: Path) -> None:
    set_keys(folder / "config.json", vocab_size=99)


def packed(folder: Path) -> None:
    set_keys(folder / "config.json", quantization_config={"quant_method": "gptq", "bits": 4})


def refusing_template(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("{{ raise_exception('no') }}")


def custom_code(folder: Path) -> None:
    set_keys(folder / "config.json", model_type="mine", auto_map={"AutoConfig": "mine.Mine"})
    (folder / "mine.py").write_text(CODE)


ROWS: list[tuple[str, Callable[[Path], object], str]] = [
    # command, fault, remedy
    ("optimize", no_head, "download it again"),
    ("optimize", other_shapes, "config.json.*download both again"),
    ("optimize", custom_code, "custom code|Transformers knows"),
    ("search", cut_weights, "download it again"),
    ("search", packed, "GPTQ.*bfloat16"),
    ("search", refusing_template, "mend chat_template.jinja"),
    ("search", shutil.rmtree, "no such model folder"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("command", "spoil", "remedy"), ROWS)
def test_a_faulty_model_is_one_line_exit_2_and_nothing_written(
    random_model: Path, tmp_path: Path, command: str, spoil: Callable[[Path], object], remedy: str
) -> None:
    model = tmp_path / "m"
    shutil.copytree(random_model, model)
    spoil(model)
    (tmp_path / "problems.jsonl").write_text('{"question": "1+1"}\n')
    (tmp_path / "p.jsonl").write_text(json.dumps(PAIR) + "\n")
    (tmp_path / "c.yaml").write_text("model: m\nproblems: problems.jsonl\nbackend: {kind: transformers}\n")
    files = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*"))
    data = ("--data", "p.jsonl") if command == "optimize" else ()
    words = [command, "c.yaml", "--model", str(model), "--out", "out", *data]
    result = subprocess.run(
        [sys.executable, "-m", "stepagent", *words],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "COLUMNS": "999"},
        input="y\n",
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    (sentence,) = (line for line in result.stderr.splitlines() if not OWN.match(line))
    assert sentence.startswith(f"error: {model}")
    assert re.search(remedy, sentence)
    assert sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*")) == files
