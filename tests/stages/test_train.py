"""How often SFT sees each set, the rows that are replayed, an init that is finished, and steps known only as text."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from stepagent import ConfigError, DataError, Message, ModelError, StepPreference
from stepagent.assembly.session import Session
from stepagent.config.settings import Config
from stepagent.files.jsonl import write_rows
from stepagent.files.rows import IftRow
from stepagent.stages.train import init_command, optimize, optimize_command, replay_of, sft_rows, training_inputs
from stepagent.types import ModelVersion


def config(folder: Path, **changes: object) -> Config:
    write_rows(folder / "ift.jsonl", [{"question": f"{i}", "solution": "=1"} for i in range(10)])
    row = {"question": "1", "prefix": [], "first": "=1", "second": "=2", "judgement": "[[A]]"}
    write_rows(folder / "eft.jsonl", [row] * 4)
    settings = {
        "model": "m",
        "problems": "p.jsonl",
        "judge": {"prompt": "demo_judge"},
        "init": {"ift": folder / "ift.jsonl", "eft": folder / "eft.jsonl"},
    }
    return Config.model_validate({**settings, **changes})


@pytest.mark.parametrize(
    ("mix", "counts"),
    [({}, (10, 4)), ({"ift": 0.5, "eft": 3}, (5, 12)), ({"ift": 0, "eft": 1.25}, (0, 5))],
)
def test_the_mix_says_how_often_a_set_is_seen(tmp_path: Path, mix: dict[str, float], counts: tuple[int, int]) -> None:
    setup = config(tmp_path)
    assert setup.init
    init = setup.init.model_copy(update={"mix": setup.init.mix.model_copy(update=mix)})
    rows = sft_rows(setup, init)
    judged = sum(row.response == "[[A]]" for row in rows)
    assert (len(rows) - judged, judged) == counts
    assert sft_rows(setup, init) == rows


def test_a_judge_that_compares_no_pair_leaves_judging_data_to_the_shipped_prompt(tmp_path: Path) -> None:
    """The prompt of a rollouts judge asks to solve."""
    setup = config(tmp_path, judge={"kind": "rollouts", "prompt": "demo_solve"})
    assert setup.init
    judged = [row for row in sft_rows(setup, setup.init) if row.response == "[[A]]"]
    assert len(judged) == 4
    assert all("Act as an impartial judge" in row.messages[0].content for row in judged)


def test_a_mix_of_nothing_and_a_replay_from_nowhere_are_errors(tmp_path: Path) -> None:
    setup = config(tmp_path)
    assert setup.init
    nothing = setup.init.mix.model_copy(update={"ift": 0.0, "eft": 0.0})
    with pytest.raises(ConfigError, match=r"init\.mix: weighs both sets with 0"):
        sft_rows(setup, setup.init.model_copy(update={"mix": nothing}))
    with pytest.raises(ConfigError, match=r"replay\.eft: name its rows in replay\.eft_data, or in init\.eft"):
        replay_of(config(tmp_path, init=None, replay={"eft": 0.1}), "round 1")


def test_rows_are_replayed_from_a_file_of_their_own_where_no_m_1_is_trained(tmp_path: Path) -> None:
    ift = tmp_path / "other.jsonl"
    write_rows(ift, [IftRow(f"question {k}", "12+1=13\n=13") for k in range(10)])
    setup = config(tmp_path, init=None, replay={"ift": 0.5, "ift_data": str(ift)})
    replay = replay_of(setup, "round 1")
    assert replay
    rows = replay.draw(12)
    assert len(rows) == 6
    assert all("question" in row.messages[-1].content for row in rows)
    model, preferences = ModelVersion.at("M_1"), tmp_path / "preferences.jsonl"
    assert training_inputs(setup, model, preferences)["ift"] == ift


def test_a_file_of_rows_without_a_share_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="eft_data: none of its rows is replayed; say in eft how many for each pair"):
        config(tmp_path, replay={"ift": 0.5, "eft_data": "eft.jsonl"})


def test_so_many_rows_for_each_pair_and_other_ones_each_round(tmp_path: Path) -> None:
    setup = config(tmp_path, replay={"ift": 0.1, "eft": 0.5})
    replays = {name: replay_of(setup, name) for name in ("round 1", "round 2")}
    first, second = ([row.messages[0].content for row in replay.draw(40)] for replay in replays.values() if replay)
    assert len(first) == 4 + 4  # the EFT file holds no more
    assert first != second
    assert replay_of(config(tmp_path), "round 1") is None


@pytest.mark.slow
def test_init_measures_both_models_and_finishes_what_was_killed(tmp_path: Path) -> None:
    from stepagent.data.ift import Columns, make_ift
    from stepagent.demo.run import demo_config

    data = tmp_path / "demo" / "data"
    changes = ["init.eft=null", "evaluate.pairs=null", "init.epochs=1"]
    setup = demo_config(tmp_path / "demo", changes)
    with Session(setup, data / "ift") as session:
        make_ift(session, str(data / "solutions.jsonl"), Columns())
    held_out = data / "held_out.jsonl"
    held_out.write_text("".join(held_out.read_text().splitlines(keepends=True)[:40]))
    assert setup.init
    out, folder = tmp_path / "M_1", tmp_path / "M_1-evaluation"
    init_command(setup, setup.init, out)
    figures = [json.loads((folder / name / "metrics.json").read_text()) for name in ("M_0", "M_1")]
    assert figures[0]["greedy_accuracy"] < figures[1]["greedy_accuracy"]
    assert figures[1]["valid_format"] > 0.9

    weights = (out / "model.safetensors").stat().st_mtime_ns
    shutil.rmtree(folder / "M_1")
    init_command(setup, setup.init, out)
    assert json.loads((folder / "M_1" / "metrics.json").read_text()) == figures[1]
    assert (out / "model.safetensors").stat().st_mtime_ns == weights

    settings = setup.init.model_copy(update={"learning_rate": 1e-9})
    with pytest.raises(ModelError, match="is there already"):
        init_command(setup.model_copy(update={"init": settings}), settings, out)
    shutil.rmtree(out)
    init_command(setup.model_copy(update={"init": settings}), settings, out)
    metrics = json.loads((folder / "M_1" / "metrics.json").read_text())
    assert metrics["greedy_accuracy"] == figures[0]["greedy_accuracy"], "measured anew, not read from before"


def text_rows(count: int) -> list[StepPreference]:
    """Preferences as an API without token ids gives them: plain text, the chat template hidden."""
    return [
        StepPreference(
            prompt=f"{i}+{i}",
            chosen=f"{i}+{i}={2 * i}\n",
            rejected=f"{i}+{i}={i}\n",
            question=f"{i}+{i}",
            prefix=(),
            prompt_ids=None,
            chosen_ids=None,
            rejected_ids=None,
            chosen_ends=False,
            rejected_ends=True,
            margin=0.9,
            problem_id=str(i),
            depth=1,
            round=1,
            generator="sample",
            judge="pairwise",
            tokenizer_sha256=None,
        )
        for i in range(10, 10 + count)
    ]


@pytest.mark.slow
def test_a_round_and_the_command_train_the_same_tokens_on_steps_known_only_as_text(
    base_model: Path, tmp_path: Path
) -> None:
    import torch
    from safetensors.torch import load_file

    from stepagent.models.tokenizer import ChatTokenizer

    solve = tmp_path / "solve.md"
    solve.write_text("0+{question}")
    settings = {
        "model": str(base_model),
        "problems": "p.jsonl",
        "generator": {"prompt": str(solve), "boundary": "line"},
        "optimize": {"learning_rate": 0.01, "warmup_ratio": 0.0, "batch_size": 8, "lora": None, "dtype": "float32"},
    }
    setup = Config.model_validate(settings)
    run = tmp_path / "run"
    preferences = run / "round_1" / "preferences.jsonl"
    rows = text_rows(8)
    write_rows(preferences, rows)
    tokenizer = ChatTokenizer(base_model)

    def sampled(row: StepPreference) -> StepPreference:
        """The row as the in-process backend writes it, its context in the config's prompt."""
        return replace(
            row,
            prompt_ids=tokenizer.prompt_ids([Message("user", f"0+{row.question}")]),
            chosen_ids=tokenizer.ids(row.chosen),
            rejected_ids=(*tokenizer.ids(row.rejected), tokenizer.end_id),
            tokenizer_sha256=tokenizer.sha256,
        )

    with Session(setup, run, serves=True) as session:
        optimize(session, ModelVersion(0, str(base_model)), preferences, trained=session.run_folder.model(1))
    optimize_command(setup, str(base_model), str(preferences), out=tmp_path / "text")
    write_rows(tmp_path / "ids.jsonl", [sampled(row) for row in rows])
    optimize_command(setup, str(base_model), str(tmp_path / "ids.jsonl"), out=tmp_path / "ids")
    write_rows(tmp_path / "plain.jsonl", [replace(row, question="") for row in rows])
    optimize_command(setup, str(base_model), str(tmp_path / "plain.jsonl"), out=tmp_path / "plain")
    folders = (run / "M_1", tmp_path / "text", tmp_path / "ids", tmp_path / "plain")
    in_round, by_command, by_ids, on_plain_text = (load_file(folder / "model.safetensors") for folder in folders)
    for name, weights in in_round.items():
        assert torch.equal(weights, by_command[name])
        assert torch.equal(weights, by_ids[name])
    assert any(not torch.equal(weights, on_plain_text[name]) for name, weights in in_round.items())
    counts = json.loads((run / "round_1" / "optimize.json").read_text())
    assert (counts["pairs"], counts["steps"]) == (8, 1)


def test_prompts_of_a_run_are_read_though_its_server_stands_nowhere_yet(tmp_path: Path) -> None:
    setup = config(
        tmp_path,
        backend={"kind": "openai"},
        serve={"command": ["vllm"]},
        judge={"prompt": "demo_judge", "backend": {"kind": "openai", "max_in_flight": 2}},
    )
    assert setup.init
    assert len(sft_rows(setup, setup.init)) == 14


@pytest.mark.parametrize(
    ("boundary", "steps", "text"),
    [
        ("line", ["2 + 3 = 5", "The answer is 5"], "2 + 3 = 5\nThe answer is 5"),
        ("line", ["2 + 3 = 5\n", "The answer is 5"], "2 + 3 = 5\nThe answer is 5"),
        ("line", ["so\n5 = 5", "The answer is 5"], "so 5 = 5\nThe answer is 5"),
        ("blank_line", ["a\nb", "c"], "a\nb\n\nc"),
        ("marker", ["a", "b"], "Step 1: a\nStep 2: b"),
        ("marker", ["Step 1: a\n", "Step 2: b"], "Step 1: a\nStep 2: b"),
    ],
)
def test_hand_made_steps_are_taught_as_the_generator_writes_them(
    tmp_path: Path, boundary: str, steps: list[str], text: str
) -> None:
    setup = config(tmp_path, generator={"boundary": boundary})
    write_rows(tmp_path / "ift.jsonl", [{"question": "q", "steps": steps}])
    assert setup.init
    rows = sft_rows(setup, setup.init.model_copy(update={"mix": setup.init.mix.model_copy(update={"eft": 0.0})}))
    assert [row.response for row in rows] == [text]


def test_steps_that_could_not_be_told_apart_are_refused(tmp_path: Path) -> None:
    setup = config(tmp_path, generator={"boundary": "marker"})
    write_rows(tmp_path / "ift.jsonl", [{"question": "q", "steps": ["a", "b\nStep 3: c"]}])
    assert setup.init
    with pytest.raises(DataError, match=r"ift\.jsonl:1: its steps cannot be told apart"):
        sft_rows(setup, setup.init)
