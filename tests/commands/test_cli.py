"""The command line as a user meets it: exit codes, one-sentence errors, nothing half written."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Command = Callable[..., subprocess.CompletedProcess[str]]


def test_search_show_and_judge_on_files(stepagent: Command, config: Path, tmp_path: Path) -> None:
    result = stepagent("search", config, "--out", tmp_path / "out")
    assert result.returncode == 0, result.stderr
    assert "preference pairs" in result.stdout
    trees = (tmp_path / "out" / "trees.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in (tmp_path / "out" / "preferences.jsonl").read_text().splitlines()]
    assert len(trees) == 6
    assert '"answer":"2"' not in "".join(trees), "the search must not see a reference answer"
    assert rows
    for row in rows:
        assert row["prompt"].endswith("<assistant>")
        assert row["chosen"] == "good Step 1: one\nStep 2:"
        assert row["rejected"] == "bad Step 1: one\nStep 2:"
        assert row["prompt_ids"] == list(row["prompt"].encode())

    view = stepagent("show", tmp_path / "out", "--problem", rows[0]["problem_id"])
    assert view.returncode == 0
    assert "✓" in view.stdout
    assert "✗" in view.stdout
    assert "good Step 1: one" in view.stdout

    rerun = stepagent("search", config, "--out", tmp_path / "out")
    assert rerun.returncode == 0
    assert (tmp_path / "out" / "trees.jsonl").read_text().splitlines() == trees, "nothing is searched twice"

    data = tmp_path / "c.jsonl"
    data.write_text(json.dumps({"question": "q", "candidates": ["bad", "good", "worse"]}) + "\n")
    judged = stepagent("judge", config, "--data", data, "--out", tmp_path / "v")
    assert judged.returncode == 0, judged.stderr
    verdict = json.loads((tmp_path / "v" / "verdicts.jsonl").read_text())["verdict"]
    assert (verdict["status"], verdict["best"]) == ("ok", 1)


def test_the_loop_may_hold_answers_that_no_request_carries(stepagent: Command, config: Path, tmp_path: Path) -> None:
    """Same search with other answers: byte for byte the same preferences."""
    stepagent("search", config, "--out", tmp_path / "one")
    problems = tmp_path / "problems.jsonl"
    problems.write_text(problems.read_text().replace('"answer": "2"', '"answer": "7"'))
    stepagent("search", config, "--out", tmp_path / "two")
    first, second = ((tmp_path / name / "preferences.jsonl").read_bytes() for name in ("one", "two"))
    assert first == second != b""


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["search", "none.yaml", "--out", "out"], "none.yaml: no such config file"),
        (["search", "c.yaml", "--out", "out", "--set", "judge.kind=pairwize"], "did you mean 'pairwise'?"),
        (["search", "c.yaml", "--out", "out", "--set", "searhc.width=2"], "did you mean 'search'?"),
        (["search", "c.yaml", "--out", "out", "--set", "search.widht=2"], "did you mean 'width'?"),
        (["search", "c.yaml", "--out", "out", "--problems", "bad.jsonl"], "bad.jsonl:2: not valid JSON"),
        (["search", "c.yaml", "--out", "out", "--problems", "noq.jsonl"], "noq.jsonl:1: 'question'"),
        (
            [
                "search",
                "c.yaml",
                "--out",
                "out",
                "--set",
                "backend={kind: transformers}",
                "--model",
                "./gone",
            ],
            "./gone: no such model folder",
        ),
        (
            [
                "search",
                "c.yaml",
                "--out",
                "out",
                "--set",
                "backend={kind: transformers}",
                "--model",
                "./bare",
            ],
            "holds no tokenizer",
        ),
        (["init", "c.yaml", "--out", "out"], "no 'init' section"),
        (["evaluate", "c.yaml", "--out", "out"], "no 'evaluate' section"),
        (
            ["optimize", "c.yaml", "--data", "empty.jsonl", "--out", "out", "--model", "MODEL"],
            "no preference pairs",
        ),
        (["optimize", "c.yaml", "--data", "bad.jsonl", "--out", "out", "--model", "MODEL"], "bad.jsonl:"),
        (
            ["judge", "c.yaml", "--data", "one.jsonl", "--out", "out"],
            "one.jsonl:1: a judge compares at least two",
        ),
        (["show", "."], "no trees.jsonl here"),
        (["search", "c.yaml", "--out", "c.yaml"], "c.yaml"),
        (["search", "c.yaml", "--out", "out", "--set", "search.width=0"], "search: 'width'"),
        (
            ["optimize", "c.yaml", "--data", "empty.jsonl", "--out", "bare", "--model", "MODEL"],
            "bare: is there",
        ),
    ],
)
def test_bad_input_is_one_sentence_exit_2_and_nothing_written(
    stepagent: Command,
    config: Path,
    tmp_path: Path,
    random_model: Path,
    arguments: list[str],
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.jsonl").write_text('{"question": "q"}\n{"question": \n')
    (tmp_path / "noq.jsonl").write_text('{"id": "x"}\n')
    (tmp_path / "one.jsonl").write_text('{"question": "q", "candidates": ["a"]}\n')
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "config.json").write_text("{}")
    result = stepagent(*(str(random_model) if a == "MODEL" else a for a in arguments))
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert sentence in errors[0]
    assert not (tmp_path / "out").exists()
    assert (tmp_path / "c.yaml").read_text().startswith("\nmodel")


def test_another_model_or_prompt_does_not_continue_old_results(
    stepagent: Command, config: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    stepagent("search", config, "--out", out, "--set", "generator.temperature=0.4")
    first = (out / "trees.jsonl").read_text()
    result = stepagent("search", config, "--out", out, "--set", "generator.temperature=0.6")
    assert result.returncode == 0, result.stderr
    assert (out / "trees.jsonl.stale").read_text() == first
    prompt = tmp_path / "mine.md"
    prompt.write_text("{question}")
    for text in ("{question}", "Now: {question}"):
        prompt.write_text(text)
        rerun = stepagent("search", config, "--out", out, "--set", f"generator.prompt={prompt}")
        assert "already done" not in rerun.stdout


OWN_JUDGE = """
from stepagent import Verdict

class Own:
    def __init__(self, backend, {argument}: str = "{path}") -> None: ...
    async def judge(self, problem, prefix, candidates, seed):
        scores = tuple(-len(step.content) for step in candidates)
        return Verdict("ok", scores, scores.index(max(scores)), scores.index(min(scores)), 0.9)
"""


@pytest.mark.parametrize("argument", ["prompt", "rules"])
def test_a_file_that_an_own_judge_reads_by_default_counts_by_its_content(
    stepagent: Command, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, argument: str
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    file, module = tmp_path / "own.md", f"own_judge_with_{argument}"
    file.write_text("The shortest step is best.")
    (tmp_path / f"{module}.py").write_text(OWN_JUDGE.format(argument=argument, path=file))
    command = ["search", config, "--out", tmp_path / "out", "--set", f"judge.kind={module}:Own"]
    result = stepagent(*command)
    assert result.returncode == 0, result.stderr
    assert "already done" not in result.stdout
    trees = tmp_path / "out" / "trees.jsonl"
    written = trees.stat().st_mtime_ns
    assert "already done, from the same files and settings" in stepagent(*command).stdout
    assert trees.stat().st_mtime_ns == written
    file.write_text("The shortest step is best, always.")
    rerun = stepagent(*command)
    assert rerun.returncode == 0, rerun.stderr
    assert "already done" not in rerun.stdout
    assert trees.with_name("trees.jsonl.stale").stat().st_mtime_ns == written
    assert "already done" in stepagent(*command).stdout


def test_the_folder_of_another_version_is_left_alone(stepagent: Command, config: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert stepagent("search", config, "--out", out).returncode == 0
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["schema"] == "stepagent/run/2"
    (out / "manifest.json").write_text(json.dumps(manifest["stages"]))
    content = {path.name: path.read_bytes() for path in out.iterdir()}
    result = stepagent("search", config, "--out", out, "--set", "seed=1")
    assert result.returncode == 2
    (error,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert f"{out}/manifest.json: written by another version of stepagent" in error
    assert {path.name: path.read_bytes() for path in out.iterdir()} == content


def test_what_lies_in_the_working_directory_decides_nothing(
    stepagent: Command, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert stepagent("search", config, "--out", tmp_path / "out").returncode == 0
    (tmp_path / "other.txt").write_text("x")
    rerun = stepagent("search", config, "--out", tmp_path / "out")
    assert "already done, from the same files and settings" in rerun.stdout


def test_failed_trees_are_tried_again_and_all_failed_is_an_error(
    stepagent: Command, config: Path, tmp_path: Path
) -> None:
    mute = ["--set", "backend={kind: scripted, rules: []}"]
    failed = stepagent("search", config, "--out", tmp_path / "out", *mute)
    assert failed.returncode == 2
    assert "6 problems in a row failed, the last with: no scripted reply" in failed.stderr
    partly = config.read_text().replace('pattern: "", say: ["good', 'pattern: "[(][0-3][)]", say: ["good')
    config.write_text(partly)
    result = stepagent("search", config, "--out", tmp_path / "part")
    assert result.returncode == 0, result.stderr
    statuses = [json.loads(line)["status"] for line in (tmp_path / "part" / "trees.jsonl").read_text().splitlines()]
    assert statuses.count("failed") == 2
    assert len(statuses) == 6


def test_an_interrupt_says_how_to_go_on(
    stepagent: Command, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interruption(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("stepagent.stages.search.search", interruption)
    result = stepagent("search", config, "--out", tmp_path / "out")
    assert result.returncode == 130
    assert "the same command continues" in result.stderr


def test_an_interrupt_ends_the_process_though_a_thread_does_not(tmp_path: Path) -> None:
    """As a pool does that was starting its thread at that moment, in a library that loads weights."""
    code = (
        "import sys, threading\nfrom stepagent.commands import main\n"
        "def app():\n    threading.Thread(target=threading.Event().wait).start()\n    sys.exit(130)\n"
        "main.app = app\nmain.run()"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 130
    assert "the same command continues" in result.stderr


def test_help_and_import_load_no_torch() -> None:
    code = (
        "import sys, stepagent, stepagent.commands.main; print('torch' in sys.modules, 'transformers' in sys.modules)"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).split() == ["False", "False"]
    trace = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "stepagent", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "| torch\n" not in trace.stderr.replace("| torch ", "| torch\n")
    for command in ("init", "search", "judge", "optimize", "evaluate", "iterate", "demo", "show"):
        assert command in trace.stdout


def test_stages_that_train_nothing_load_no_torch() -> None:
    stages = "search, judge, evaluate"
    code = f"import sys; from stepagent.stages import {stages}; print('torch' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).split() == ["False"]


def test_cli_py_is_the_installed_command() -> None:
    shim = Path(__file__).parents[2] / "cli.py"
    text = subprocess.check_output([sys.executable, str(shim), "search", "--help"], text=True)
    assert "Search step trees" in text


def test_an_error_shows_the_escapes_of_the_file_that_it_quotes(stepagent: Command, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text('model: m\nproblems: "gone\\u001b]0;owned\\u0007\\u202e.jsonl"\n')
    result = stepagent("search", path, "--out", tmp_path / "out")
    assert result.returncode == 2
    assert "gone␛]0;owned␇⟨U+202E⟩.jsonl" in result.stderr
    assert not set(result.stderr) & set("\x1b\x07\u202e")
