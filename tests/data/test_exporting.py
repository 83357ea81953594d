"""Rows out for other trainers: every format, back again, and through the real TRL."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from stepagent import Candidate, Problem, StepPreference, Verdict
from stepagent.data.convert import export_rows, import_rows
from stepagent.files.exports import PREFERENCES, prm, sft
from stepagent.files.jsonl import read_rows, write_rows
from stepagent.files.labelled_rows import LabelledSolution, read_labelled
from stepagent.files.preference_rows import ForeignPair, read_preferences
from stepagent.files.rows import load_labelled_pairs, read_ift
from stepagent.models.tokenizer import ChatTokenizer
from stepagent.testing import step, text_preference
from stepagent.tree import StepTree

Preference = Callable[..., StepPreference]


PAIR = text_preference(
    "<|user|>Q<|assistant|>Step 1: a\nStep 2:",
    " b\nStep 3:",
    " c",
    prefix=("Step 1: a\nStep 2:",),
    rejected_ends=True,
    depth=2,
)


def test_every_exporters_row_as_it_is() -> None:
    rows = {name: export(PAIR, "<|end|>") for name, export in PREFERENCES.items()}
    ends = {"chosen": False, "rejected": True}
    origin = {"question": "Q", "prefix": ["Step 1: a\nStep 2:"], "ends": ends, "end": "<|end|>"}
    plain = {"prompt": PAIR.prompt, "chosen": " b\nStep 3:", "rejected": " c", **origin, "end": ""}
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
    export_rows(tmp_path / "p.jsonl", to, "", out=tmp_path / "out.jsonl")
    for (_, pair), chosen in zip(read_preferences(tmp_path / "out.jsonl"), (" b\nStep 3:", " d\nStep 3:"), strict=True):
        assert isinstance(pair, ForeignPair)
        assert (pair.chosen, pair.rejected) == (chosen, " c")
        context = "".join(turn.content for turn in pair.turns) + pair.prefix
        assert context == ("Q" + PAIR.prefix[0] if to == "step-dpo" else PAIR.prompt)
    import_rows(str(tmp_path / "out.jsonl"), "pairs", tmp_path / "pairs.jsonl")
    for row, chosen in zip(load_labelled_pairs(tmp_path / "pairs.jsonl"), ("b\nStep 3:", "d\nStep 3:"), strict=True):
        winner = row.first if row.winner == "first" else row.second
        assert winner == chosen
        assert (row.question, "".join(row.prefix)) == ("Q", PAIR.prefix[0]), "the split is by question"


@pytest.mark.slow
def test_the_real_dpo_trainer_of_trl_sees_the_sampled_tokens(
    preference: Preference, random_model: Path, tmp_path: Path
) -> None:
    from datasets import load_dataset
    from transformers import AutoModelForCausalLM
    from trl import DPOConfig, DPOTrainer

    tokenizer = ChatTokenizer(random_model)
    write_rows(
        tmp_path / "p.jsonl",
        [preference(tokenizer, f"1+{i}={i}\n", f"2+{i}=9\n", ends=i % 3 == 0) for i in range(1, 9)],
    )
    preferences = read_rows(tmp_path / "p.jsonl", StepPreference)
    end = tokenizer.end_id
    for to in ("trl-conversational", "trl"):
        export_rows(tmp_path / "p.jsonl", to, tokenizer.text([end]), out=tmp_path / f"{to}.jsonl")
        rows = load_dataset("json", data_files=str(tmp_path / f"{to}.jsonl"), cache_dir=str(tmp_path / "cache"))[
            "train"
        ]
        arguments = DPOConfig(output_dir=str(tmp_path / to), use_cpu=True, max_steps=1, report_to="none", bf16=False)
        trainer = DPOTrainer(
            model=AutoModelForCausalLM.from_pretrained(random_model),
            args=arguments,
            train_dataset=rows,
            processing_class=tokenizer.raw,
        )
        for trained, row in zip(trainer.train_dataset, preferences, strict=True):
            assert trained["prompt_ids"] == list(row.prompt_ids or ())
            for side in ("chosen", "rejected"):
                ids = list(getattr(row, f"{side}_ids"))
                # what the help says: TRL's text rows end every step's turn, the conversational ones none
                expected = ids if to == "trl-conversational" or ids[-1] == end else [*ids, end]
                assert trained[f"{side}_ids"] == expected
    trainer.train()


def tree() -> StepTree:
    step_tree = StepTree(Problem("p", "q"), status="ended", context_text="<q>")
    level = step_tree.add(None, (Candidate(step("a\n")), Candidate(step("b\n"))))
    level.judged, level.chosen = level.nodes, 0
    level.verdict = Verdict("ok", (0.9, 0.2), 0, worst=1, margin=0.9, values=(0.9, 0.2))
    unsure = step_tree.add(0, (Candidate(step("c\n")), Candidate(step("d\n"))))
    unsure.judged = unsure.nodes
    unsure.verdict = Verdict("ok", (0.5, float("nan")), 0, worst=0, margin=0.9, values=(0.5, float("nan")))
    alone = step_tree.add(2, (Candidate(step("e.", ends=True)),))
    step_tree.path = [0, 2, alone.nodes[0]]
    return step_tree


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
    export_rows(tmp_path / "trees.jsonl", "sft", None, out=tmp_path / "sft.jsonl")
    ((_, row),) = read_ift(tmp_path / "sft.jsonl")
    assert (row.question, row.text) == ("q", "a\nc\ne.")
    export_rows(tmp_path / "trees.jsonl", "prm", None, out=tmp_path / "prm.jsonl")
    back = read_labelled(tmp_path / "prm.jsonl", None, 0)
    assert back[:2] == [LabelledSolution("q", ("b",), 0), LabelledSolution("q", ("a", "c"), None)]


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
def test_what_cannot_be_converted_is_one_sentence(tmp_path: Path, arguments: list[str], sentence: str) -> None:
    write_rows(tmp_path / "p.jsonl", [PAIR])
    write_rows(tmp_path / "in.jsonl", [{"problem": "q1", "steps": ["a", "b"], "label": -1}])
    (tmp_path / "broken.jsonl").write_text("{\n")
    torn = tree()
    torn.levels[0].judged = (0, 9)
    write_rows(tmp_path / "torn.jsonl", [torn])
    result = subprocess.run(
        [sys.executable, "-m", "stepagent", "data", *arguments, "--out", "out.jsonl"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert result.returncode == 2
    assert sentence in result.stderr.replace("\n", " ")
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "out.jsonl").exists() or "import" in arguments
