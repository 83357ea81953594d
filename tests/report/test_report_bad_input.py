"""A report shows what there is, and says in a sentence what is not."""

from __future__ import annotations

import builtins
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stepagent.errors import DataError
from stepagent.report.page import finish_with_report, write_report

Reader = Callable[[Path], Any]


def test_a_run_that_is_being_written(run: Path, tables: Reader) -> None:
    for name in ("summary.json", "evaluation", "watch", "round_2/optimize.json", "round_2/training.jsonl"):
        shutil.rmtree(run / name) if (run / name).is_dir() else (run / name).unlink()
    trees = run / "round_2" / "trees.jsonl"
    trees.write_bytes(trees.read_bytes()[:-40])
    before = trees.read_bytes()
    page = tables(write_report(run))
    assert trees.read_bytes() == before, "a report leaves the files of a run alone"
    assert "The run has not ended" in page.text
    assert "No model of this run was evaluated" in page.text
    assert "trees.jsonl: its last line is still being written" in page.text
    assert "M_3 is not trained yet" in page.text
    assert page.row("behaviour", "round 2")[2] == "3"


def test_a_run_with_one_stage_only(tmp_path: Path, tables: Reader) -> None:
    (tmp_path / "manifest.json").write_text('{"schema": "stepagent/run/2", "stages": {"data": {"seconds": 1.5}}}')
    page = tables(write_report(tmp_path))
    assert page.row("cost", "data")[1] == "1.5"


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ('{"schema":"stepagent/step-tree/0","nodes":[]}', "a line is no step tree of this version and is left out"),
        ("not json", "a line is no step tree of this version and is left out"),
        ('{"schema":"stepagent/step-tree/1"}', "a line is no step tree and is left out"),
        ("[" * 5000, "a line is no step tree of this version"),
    ],
)
def test_rows_that_are_no_trees_are_counted(run: Path, tables: Reader, line: str, sentence: str) -> None:
    with (run / "round_1" / "trees.jsonl").open("a") as file:
        file.write(f"{line}\n{line}\n")
    page = tables(write_report(run))
    assert f"round_1/trees.jsonl: {sentence}" in page.text
    assert "(2 times)" in page.text
    assert page.row("behaviour", "round 1")[2] == "4"


@pytest.mark.parametrize(
    "path", [["path", 0], ["levels", 0, "judged", 0], ["levels", 0, "chosen"], ["levels", 1, "parent"]]
)
def test_a_tree_that_names_steps_it_has_not_is_left_out(run: Path, tables: Reader, path: list[Any]) -> None:
    trees = run / "round_1" / "trees.jsonl"
    row = place = json.loads(trees.read_text().splitlines()[0])
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = 99
    trees.write_text(json.dumps(row) + "\n")
    page = tables(write_report(run))
    assert "a tree names steps that it does not hold and is left out" in page.text


def test_a_step_of_200_kilobytes_and_text_from_right_to_left(run: Path, make_tree: Any) -> None:
    from stepagent.files.jsonl import dump_row

    long = make_tree("שלום עולם", long=40_000)
    with (run / "round_1" / "trees.jsonl").open("a") as file:
        file.write(dump_row(long))
    page = write_report(run).read_text(encoding="utf-8")
    assert len(page) < 1_000_000
    assert "characters are left out" in page
    assert "שלום עולם" in page


def test_without_matplotlib(run: Path, tables: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *arguments: Any, **keywords: Any) -> Any:
        if name.partition(".")[0] == "matplotlib":
            raise ImportError(name)
        return real(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", without)
    page = tables(write_report(run))
    assert "No plots: matplotlib is not installed" in page.text
    assert not [tag for tag, _ in page.tags if tag == "svg"]
    assert page.row("result", "M_2")[1].startswith("50.0")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("manifest.json", "{"),
        ("manifest.json", "[1]"),
        ("manifest.json", '{"stages": {"x": 3, "y": {"seconds": "long", "inputs": 5}}}'),
        ("summary.json", '{"models": [3, {"name": "M_1"}], "drifted": null}'),
        ("summary.json", "\x00"),
        ("config.yaml", "a: [\n"),
        ("config.yaml", "prices: 3\nbackend: null\nproblems: [1]\nevaluate: 7\n"),
        ("round_1/optimize.json", '{"margin": null, "parity": "x", "accuracy": null}'),
        ("round_1/training.jsonl", '{"step": "one"}\n{"loss": NaN}\n3\n{"step": 1, "steps": 0, "loss": null}\n'),
        ("evaluation/M_1/metrics.json", '{"greedy_accuracy": null, "solved": null}'),
        ("evaluation/M_1/metrics.json", '{"name": 3, "greedy_accuracy": 0.5, "own_pairs": "many", "solved": [1]}'),
        ("evaluation/M_1/pairs.jsonl", '{"index": "x", "verdicts": 3}\n{}\n{"index": -7, "verdicts": [null]}\n'),
        ("watch/M_1.json", '{"ended": "all"}'),
        ("labelled.jsonl", "no rows\n"),
        ("responses.sqlite", "no store"),
        ("compare.json", '{"points": [{}], "at_budget": {"x": {}}}'),
        ("data/eft/funnel.json", '{"x": null, "y": [1]}'),
    ],
)
def test_files_of_other_content_do_not_stop_a_report(run: Path, name: str, content: str) -> None:
    (run / name).write_text(content)
    assert write_report(run).stat().st_size > 10_000


def test_nothing_to_report(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nothing to report"):
        write_report(tmp_path)
    with pytest.raises(DataError, match="no such folder"):
        write_report(tmp_path / "gone")


def test_a_report_that_fails_is_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    finish_with_report(tmp_path)
    shown = capsys.readouterr()
    assert "no report could be written" in shown.err
    assert not shown.out


def test_lists_and_filters(stepagent_in: Callable[..., subprocess.CompletedProcess[str]], run: Path) -> None:
    def ids(*filters: str) -> list[str]:
        words = [word for name in filters for word in ("--where", name)]
        result = stepagent_in("show", run / "round_1", "--list", *words)
        assert result.returncode == 0, result.stderr
        return [line.split()[2] for line in result.stdout.splitlines()[:-1]]

    assert ids() == ["p0", "p1", "p2", "p3"]
    assert ids("disagree") == ids("rolled_back") == ids("no_signal") == ["p1"]
    assert ids("wrong") == ["p1", "p3"]
    assert ids("wrong", "failed") == ["p3"]
    assert ids("low_margin") == ["p2"]
    first = stepagent_in("show", run / "round_1", "--where", "low_margin")
    assert first.stdout.startswith("p2")
    changed = stepagent_in("show", run, "--list", "--where", "changed").stdout
    assert "held-out problems, M_1" in changed
    assert "longest" in stepagent_in("show", run, "--list", "--where", "longest").stdout
    for words, sentence in (
        (("--where", "disagre"), "did you mean 'disagree'?"),
        (("--problem", "p0", "--list"), "leave out --list"),
        (("--where", "failed", "--where", "low_margin"), "no tree passes failed and low_margin"),
    ):
        result = stepagent_in("show", run / "round_1", *words)
        assert result.returncode == 2
        assert sentence in result.stderr
