"""The notebooks run from the first cell to the last, on small settings, and are stored without outputs."""

from __future__ import annotations

import json
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

EXAMPLES = Path(__file__).parents[2] / "examples"
SMALL = (
    'judge.backend={"kind":"stepagent.demo.oracle:Marker"}',  # so little SFT teaches no judge
    "eft.problems.sample=60",
    "init.epochs=0.15",
    "problems_per_round=[6]",
    "watch.problems=0",
    "evaluate.problems.sample=20",
    "evaluate.search_problems=0",
)
"""The demo's circle in seconds."""


def run(name: str, folder: Path) -> str:
    """Run a notebook in a folder; returns all that its cells printed."""
    book = nbformat.read(EXAMPLES / f"{name}.ipynb", 4)
    NotebookClient(book, timeout=600, resources={"metadata": {"path": str(folder)}}).execute()
    return "".join(output.get("text", "") for cell in book.cells for output in cell.get("outputs", []))


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_notebook_is_small_and_holds_no_output(path: Path) -> None:
    cells = [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
    assert path.stat().st_size < 10_000
    assert all(cell.outputs == [] and cell.execution_count is None for cell in cells)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_demo_on_a_laptop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEPAGENT_SET", " ".join(SMALL))
    printed = run("demo_on_a_laptop", tmp_path)
    assert "M_2 solves" in printed
    assert " before " in printed, "a preference"
    assert (tmp_path / "runs/notebook/report.html").is_file()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_real_model(tmp_path: Path, smollm2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("MODEL", str(smollm2)), ("WIDTH", "2"), ("LEVELS", "1")):
        monkeypatch.setenv(name, value)
    printed = run("real_model", tmp_path)
    assert "chosen" in printed
    assert "step-DPO" not in printed, "a function speaks to the logger alone, in a notebook, too"
    assert json.loads((tmp_path / "runs/real/M_2/config.json").read_text())["architectures"] == ["LlamaForCausalLM"]
