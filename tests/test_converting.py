"""Rows of other projects in, rows for other trainers out; the real TRL takes them."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fakes import step
from test_optimize import preference

from stepagent import Candidate, DataError, Problem, StepPreference, Verdict
from stepagent.data.convert import export_stage, import_stage
from stepagent.files.exports import PREFERENCES, prm, sft
from stepagent.files.jsonl import read_rows, write_rows
from stepagent.files.labelled_rows import LabelledPair, LabelledSolution, read_labelled
from stepagent.files.preference_rows import ForeignPair, read_preferences
from stepagent.files.rows import load_ift, load_pairs
from stepagent.models.tokenizer import load_tokenizer
from stepagent.tree import StepTree

PAIR = StepPreference(
    prompt="<|user|>Q<|assistant|>Step 1: a\nStep 2:",
    chosen=" b\nStep 3:",
    rejected=" c",
    question="Q",
    prefix=("Step 1: a\nStep 2:",),
    prompt_ids=None,
    chosen_ids=None,
    rejected_ids=None,
    chosen_ends=False,
    rejected_ends=True,
    margin=0.9,
    problem_id="p",
    depth=2,
    round=1,
    generator="sample",
    judge="pairwise",
    tokenizer_sha256=None,
)


def test_every_exporters_row_as_it_is() -> None:
    rows = {name: export(PAIR, "<|end|>") for name, export in PREFERENCES.items()}
    origin = {"question": "Q", "prefix": ["Step 1: a\nStep 2:"]}
    plain = {"prompt": PAIR.prompt, "chosen": " b\nStep 3:", "rejected": " c", **origin}
    assert rows["trl"] == rows["openrlhf"] == plain
    assert rows["llama-factory"] == {
        "instruction": PAIR.prompt,
        "chosen": " b\nStep 3:",
        "rejected": " c<|end|>",
        **origin,
    }
    assert rows["step-dpo"] == {
        "prompt": "Q",
        "initial_reason_steps": "Step 1: a\nStep 2:",
        "chosen": " b\nStep 3:",
        "rejected": " c<|end|>",
        **origin,
    }
    turns = rows["trl-conversational"]
    assert [turns[key][0]["role"] for key in ("prompt", "chosen", "rejected")] == [
        "user",
        "assistant",
        "assistant",
    ]
    assert turns["rejected"][0]["content"] == " c<|end|>"


@pytest.mark.parametrize("to", ["trl", "trl-conversational", "llama-factory", "openrlhf", "step-dpo"])
def test_what_goes_out_comes_back(tmp_path: Path, to: str) -> None:
    write_rows(tmp_path / "p.jsonl", [PAIR, replace(PAIR, chosen=" d\nStep 3:", rejected_ends=False)])
    export_stage(tmp_path / "p.jsonl", to, "", tmp_path / "out.jsonl")
    for (_, read), chosen in zip(
        read_preferences(tmp_path / "out.jsonl"), (" b\nStep 3:", " d\nStep 3:"), strict=True
    ):
        assert isinstance(read, ForeignPair)
        assert (read.chosen, read.rejected) == (chosen, " c")
        context = "".join(turn.content for turn in read.turns) + read.prefix
        assert context == ("Q" + PAIR.prefix[0] if to == "step-dpo" else PAIR.prompt)
    import_stage(str(tmp_path / "out.jsonl"), "pairs", tmp_path / "pairs.jsonl")
    for row, chosen in zip(load_pairs(tmp_path / "pairs.jsonl"), ("b\nStep 3:", "d\nStep 3:"), strict=True):
        won = row.first if row.winner == "first" else row.second
        assert won == chosen
        assert (row.question, "".join(row.prefix)) == ("Q", PAIR.prefix[0]), "the split is by question"


@pytest.mark.slow
def test_the_real_dpo_trainer_of_trl_sees_the_sampled_tokens(random_model: Path, tmp_path: Path) -> None:
    from datasets import load_dataset
    from transformers import AutoModelForCausalLM
    from trl import DPOConfig, DPOTrainer

    tokenizer = load_tokenizer(random_model)
    write_rows(
        tmp_path / "p.jsonl",
        [preference(tokenizer, f"1+{i}={i}\n", f"2+{i}=9\n", ends=i % 3 == 0) for i in range(1, 9)],
    )
    ours = read_rows(tmp_path / "p.jsonl", StepPreference)
    end = tokenizer.eos_token_id
    for to in ("trl-conversational", "trl"):
        export_stage(tmp_path / "p.jsonl", to, tokenizer.eos_token, tmp_path / f"{to}.jsonl")
        rows = load_dataset(
            "json", data_files=str(tmp_path / f"{to}.jsonl"), cache_dir=str(tmp_path / "cache")
        )["train"]
        arguments = DPOConfig(
            output_dir=str(tmp_path / to), use_cpu=True, max_steps=1, report_to="none", bf16=False
        )
        trainer = DPOTrainer(
            model=AutoModelForCausalLM.from_pretrained(random_model),
            args=arguments,
            train_dataset=rows,
            processing_class=tokenizer,
        )
        for seen, row in zip(trainer.train_dataset, ours, strict=True):
            assert seen["prompt_ids"] == list(row.prompt_ids or ())
            for side in ("chosen", "rejected"):
                ids = list(getattr(row, f"{side}_ids"))
                # what the help says: TRL's text rows end every step's turn, the conversational ones none
                expected = ids if to == "trl-conversational" or ids[-1] == end else [*ids, end]
                assert seen[f"{side}_ids"] == expected
    trainer.train()


def tree() -> StepTree:
    made = StepTree(Problem("p", "q"), status="ended", context_text="<q>")
    level = made.add(None, (Candidate(step("a\n")), Candidate(step("b\n"))))
    level.judged, level.chosen = level.nodes, 0
    level.verdict = Verdict("ok", (0.9, 0.2), 0, 1, 0.9, values=(0.9, 0.2))
    unsure = made.add(0, (Candidate(step("c\n")), Candidate(step("d\n"))))
    unsure.judged = unsure.nodes
    unsure.verdict = Verdict("ok", (0.5, float("nan")), 0, 0, 0.9, values=(0.5, float("nan")))
    alone = made.add(2, (Candidate(step("e.", ends=True)),))
    made.path = [0, 2, alone.nodes[0]]
    return made


def test_trees_become_process_reward_and_sft_rows(tmp_path: Path) -> None:
    assert list(prm(tree())) == [
        {"prompt": "q", "completions": ["b"], "labels": [False]},
        {"prompt": "q", "completions": ["a", "c"], "labels": [True, True]},
    ]
    assert list(sft(tree())) == [
        {"prompt": "<q>", "completion": "a\nc\ne.", "question": "q", "steps": ["a\n", "c\n", "e."]}
    ]
    assert list(sft(replace(tree(), status="failed"))) == []
    write_rows(tmp_path / "trees.jsonl", [tree(), replace(tree(), status="no_signal")])
    export_stage(tmp_path / "trees.jsonl", "sft", None, tmp_path / "sft.jsonl")
    (row,) = load_ift(tmp_path / "sft.jsonl")
    assert (row.question, row.text) == ("q", "a\nc\ne.")
    export_stage(tmp_path / "trees.jsonl", "prm", None, tmp_path / "prm.jsonl")
    back = read_labelled(tmp_path / "prm.jsonl", None, 0)
    assert back[:2] == [LabelledSolution("q", ("b",), 0), LabelledSolution("q", ("a", "c"), None)]


FOREIGN: list[dict[str, Any]] = [
    {"problem": "q1", "steps": ["a", "b"], "label": -1},
    {"problem": "q2", "steps": ["a", "b", "c"], "label": 1},
    {"input": "q3 Step 1: a ки\nStep 2: b ки", "label": "q3 Step 1: a +\nStep 2: b +"},
    {"prompt": "q4", "completions": ["a", "b", "c"], "labels": [True, False, True]},
    {
        "question": {"problem": "q5"},
        "label": {
            "steps": [
                {
                    "completions": [{"text": "good", "rating": 1}, {"text": "bad", "rating": -1}],
                    "chosen_completion": 0,
                }
            ]
        },
    },
    {"prompt": "q6", "initial_reason_steps": "Step 1: a\nStep 2:", "chosen": " b", "rejected": " c"},
    {"prompt": "q7 ", "chosen": "yes", "rejected": "no"},
    {"prompt": "q8", "chosen": "same", "rejected": "same"},
    {"text": "what is this"},
    {"problem": "q9", "steps": ["â€™s"], "label": -1},
    {"problem": "q10", "steps": ["x" * 100_001], "label": -1},
]


def imported(folder: Path, to: str) -> tuple[list[dict[str, Any]], list[str]]:
    write_rows(folder / "in.jsonl", FOREIGN)
    import_stage(str(folder / "in.jsonl"), to, folder / f"{to}.jsonl")  # type: ignore[arg-type]

    def lines(path: Path) -> list[dict[str, Any]]:
        return [json.loads(line) for line in path.read_text().splitlines()]

    aside = lines(folder / f"{to}.set_aside.jsonl")
    assert all(row["where"].startswith(str(folder / "in.jsonl")) for row in aside)
    return lines(folder / f"{to}.jsonl"), [row["reason"] for row in aside]


def test_foreign_rows_are_imported_or_set_aside_with_the_reason(tmp_path: Path) -> None:
    pairs, aside = imported(tmp_path, "pairs")
    found = {row["question"]: (row[row["winner"]], row["prefix"]) for row in pairs}
    assert found == {
        "q5": ("good", []),
        "q6": ("b", ["Step 1:", " a\nStep 2:"]),
        "q7 ": ("yes", []),
    }
    assert len(pairs) + len(aside) == len(FOREIGN)
    assert aside.count("holds no pair") == 4
    assert "both steps are the same" in aside
    assert "broken characters" in aside
    assert "longer than 100,000 characters" in aside
    assert "a row of no known format" in aside

    solutions, aside = imported(tmp_path, "solutions")
    assert solutions == [
        {"question": "q1", "solution": "a\n\nb"},
        {"question": "q3", "solution": "Step 1: a\nStep 2: b"},
    ]
    assert aside.count("has a wrong step") == 2

    steps, _ = imported(tmp_path, "steps")
    assert [row["labels"] for row in steps] == [[True, True], [True, False], [True, True], [True, False]]
    assert read_labelled(tmp_path / "pairs.jsonl", None, 0)[0] == LabelledPair(
        "q5", (), "good", "bad", "first"
    )


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["import", "none.jsonl", "--to", "pairs"], "none.jsonl: no such file"),
        (["import", "p.jsonl", "--to", "steps"], "no steps in it"),
        (["export", "p.jsonl", "--to", "step-dpo"], "p.jsonl:1: this step ends the solution, and step-dpo"),
        (["export", "in.jsonl", "--to", "trl"], "in.jsonl:1: 'prompt'"),
        (["export", "p.jsonl", "--to", "sft"], "p.jsonl:1: 'problem'"),
        (["export", "torn.jsonl", "--to", "prm"], "torn.jsonl:1: not a whole step tree"),
        (["export", "broken.jsonl", "--to", "trl"], "broken.jsonl:1: not valid JSON"),
    ],
)
def test_what_cannot_be_converted_is_one_sentence(
    tmp_path: Path, arguments: list[str], sentence: str
) -> None:
    write_rows(tmp_path / "p.jsonl", [PAIR])
    write_rows(tmp_path / "in.jsonl", FOREIGN)
    (tmp_path / "broken.jsonl").write_text("{\n")
    torn = tree()
    torn.levels[0].judged = (0, 9)
    write_rows(tmp_path / "torn.jsonl", [torn])
    done = subprocess.run(
        [sys.executable, "-m", "stepagent", "data", *arguments, "--out", "out.jsonl"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 2
    assert sentence in done.stderr.replace("\n", " ")
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out.jsonl").exists() or "import" in arguments


def test_an_import_of_nothing_is_an_error(tmp_path: Path) -> None:
    write_rows(tmp_path / "in.jsonl", [{"text": "x"}])
    with pytest.raises(DataError, match=r"no pairs in it; .*set_aside\.jsonl says why"):
        import_stage(str(tmp_path / "in.jsonl"), "pairs", tmp_path / "out.jsonl")


WRONG: list[dict[str, Any]] = [
    {"prompt": "q", "completions": ["a", "b"], "labels": ["False", "False"]},
    {"prompt": "q", "completions": ["a"], "labels": [None]},
    {"prompt": "q", "completions": "abc", "labels": [True, True, True]},
    {"prompt": [{"role": "user", "content": "q"}], "completions": ["a"], "labels": [True]},
    {"problem": "q", "steps": ["a"], "label": True},
    {"problem": "q", "steps": ["a"], "label": float("inf")},
    {"problem": None, "steps": ["a"], "label": -1},
    {"problem": "q", "steps": ["a", {"b": 1}], "label": -1},
    {"problem": "q", "steps": ["", " "], "label": -1},
    {"problem": "", "steps": ["a"], "label": -1},
    {
        "question": {"problem": "q"},
        "label": {"steps": [{"completions": [{"text": "a", "rating": 1}], "chosen_completion": 5}]},
    },
    {"question": {"problem": "q"}, "label": {"steps": None}},
    {"question": "q", "prefix": "abc", "first": "a", "second": "b", "winner": "first"},
    {"question": "q", "first": None, "second": "b", "winner": "first"},
    {"question": "q", "first": "a", "second": "a ", "winner": "first"},
    {"question": " ", "first": "a", "second": "b", "winner": "first"},
    {"question": "q", "first": "a", "second": "b", "winner": "x" * 2_000_000},
    {"prompt": None, "initial_reason_steps": "", "chosen": "a", "rejected": "b"},
    {"prompt": "q", "initial_reason_steps": ["a"], "chosen": "a", "rejected": "b"},
    {
        "prompt": [{"role": "user", "content": None}],
        "chosen": [{"role": "assistant", "content": "a"}],
        "rejected": [{"role": "assistant", "content": "b"}],
    },
    {"prompt": "q \ud800", "chosen": "a", "rejected": "b"},
    {"prompt": 3, "chosen": "a", "rejected": "b"},
    {},
]


@pytest.mark.parametrize("to", ["pairs", "solutions", "steps"])
def test_wrong_types_are_never_taken_for_data(tmp_path: Path, to: str) -> None:
    good: list[dict[str, Any]] = [FOREIGN[0], FOREIGN[5]]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*WRONG, *good]))
    import_stage(str(tmp_path / "in.jsonl"), to, tmp_path / "out.jsonl")  # type: ignore[arg-type]
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 1
    aside = [json.loads(line) for line in (tmp_path / "out.set_aside.jsonl").read_text().splitlines()]
    assert len(aside) == len(WRONG) + 1
    assert len({row["reason"] for row in aside}) < 8, "reasons can be counted"
    assert max(len(row["detail"]) for row in aside) <= 300
