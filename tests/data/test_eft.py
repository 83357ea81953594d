"""EFT data: siblings labelled by one judge, judged in writing by a teacher who errs, filtered and split."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from eft_yield import labelled_rows, right_share, write_world

from stepagent import Candidate, DataError, Problem, Verdict, Vote
from stepagent.assembly.session import Session
from stepagent.config.loading import load_config
from stepagent.config.settings import Config
from stepagent.data.eft import make_eft
from stepagent.data.eft_pairs import UnlabelledLevel, sibling_pairs
from stepagent.demo.world import correct_answer, line_is_right
from stepagent.files.jsonl import read_rows, write_rows
from stepagent.testing import step
from stepagent.tree import StepTree
from stepagent.types import ModelVersion, StepPair

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def eft_report(config: Config, out: Path, **changes: object) -> dict[str, object]:
    """The report of the EFT data made into `out`; `changes` are to the config's 'eft' section."""
    assert config.eft is not None
    with Session(config, out) as session:
        return make_eft(session, config.eft.model_copy(update=changes), ModelVersion(0, "none"))


def world(folder: Path, count: int, settings: str = "") -> Path:
    path = write_world(folder, count)
    path.write_text(path.read_text() + settings)
    return path


def test_the_filters_raise_label_accuracy_and_the_funnel_counts_every_pair(tmp_path: Path) -> None:
    config = load_config(world(tmp_path, 400))
    out = tmp_path / "eft"
    report = eft_report(config, out)
    train = read_rows(out / "eft.jsonl", StepPair)
    test = read_rows(out / "test.jsonl", StepPair)
    unfiltered = read_rows(out / "test_unfiltered.jsonl", StepPair)
    assert right_share(labelled_rows(out / "labelled.jsonl")) < 0.93
    assert right_share(train) > 0.95
    assert right_share(test) > 0.9
    assert len(test) < len(unfiltered)

    winners = Counter(row.winner for row in train)
    assert winners["first"] == winners["second"]
    assert winners["tie"] <= 0.25 * len(train)
    assert all(row.judgement.endswith(("[[A]]", "[[B]]", "[[C]]")) for row in train)
    questions = {row.question for row in train}
    assert not questions & {row.question for row in (*test, *unfiltered)}

    removed = {key: n for key, n in report.items() if key.startswith("  −")}
    aside = [row["reason"] for _, row in numbered_rows(out / "set_aside.jsonl")]
    assert len(aside) == sum(removed.values())  # type: ignore[arg-type]
    assert report["levels and pairs"] == len(aside) + report["pairs kept"]  # type: ignore[operator]
    assert report["pairs kept"] == len(train) // 2 + len(test)
    assert {"  − teacher: the positions disagree", "  − teacher: against the label"} <= removed.keys()
    assert json.loads((out / "funnel.json").read_text()) == report


def numbered_rows(path: Path) -> list[tuple[int, dict[str, object]]]:
    return list(enumerate(json.loads(line) for line in path.read_text().splitlines()))


def test_a_killed_run_goes_on_and_another_screen_asks_nobody_twice(tmp_path: Path) -> None:
    config = load_config(world(tmp_path, 40))
    out = tmp_path / "eft"
    eft_report(config, out)
    whole = {path.name: path.read_text() for path in out.glob("*.jsonl")}
    (judged,) = out.glob("judged_*.jsonl")
    lines = judged.read_text().splitlines(keepends=True)
    judged.write_text("".join(lines[:20]) + lines[20][:30])
    eft_report(config, out)
    finished = [line for line in lines[:20] if '"error"' not in line]  # what failed is asked again
    assert judged.read_text().splitlines(keepends=True)[: len(finished)] == finished
    assert sorted(judged.read_text().splitlines()) == sorted("".join(lines).splitlines())
    for name in ("eft.jsonl", "test.jsonl", "test_unfiltered.jsonl"):
        assert (out / name).read_text() == whole[name]
    before = sorted(judged.read_text()), (out / "trees.jsonl").stat().st_mtime_ns
    eft_report(config, out, test_share=0.5)
    assert (sorted(judged.read_text()), (out / "trees.jsonl").stat().st_mtime_ns) == before
    assert len((out / "eft.jsonl").read_text()) < len(whole["eft.jsonl"])


def test_problems_held_out_for_evaluation_are_left_out_whatever_their_spelling(tmp_path: Path) -> None:
    path = world(tmp_path, 30, f"evaluate: {{problems: {tmp_path}/held.jsonl}}\n")
    questions = [row["question"] for _, row in numbered_rows(tmp_path / "problems.jsonl")]
    write_rows(tmp_path / "held.jsonl", [{"question": f"  {text} ", "answer": "1"} for text in questions[:10]])
    config = load_config(path)
    report = eft_report(config, tmp_path / "eft")
    assert report["  − a problem that evaluate.problems holds"]
    rows = read_rows(tmp_path / "eft" / "eft.jsonl", StepPair)
    assert not {row.question for row in rows} & set(questions[:10])


def test_without_a_teacher_a_template_writes(tmp_path: Path) -> None:
    config = load_config(world(tmp_path, 30), ["eft.teacher=null"])
    eft_report(config, tmp_path / "eft")
    row = next(row for row in read_rows(tmp_path / "eft" / "eft.jsonl", StepPair) if row.winner == "second")
    rated, verdict = row.judgement.splitlines()
    assert verdict == "[[B]]"
    a, b = (float(word) for word in rated.rstrip(".").replace(",", "").split() if word[0] == "0")
    assert a < b


def test_pairs_that_are_labelled_already_need_no_search(tmp_path: Path) -> None:
    config = load_config(world(tmp_path, 60), ["eft.test_share=0.5"])
    eft_report(config, tmp_path / "eft")
    pairs = tmp_path / "pairs.jsonl"
    write_rows(pairs, read_rows(tmp_path / "eft" / "test_unfiltered.jsonl", StepPair))
    config = load_config(
        tmp_path / "c.yaml",
        ["eft.problems=null", "eft.labels=null", f"eft.pairs={pairs}", "eft.test_share=0.3"],
    )
    report = eft_report(config, tmp_path / "given")
    assert report["levels and pairs"] == len(pairs.read_text().splitlines())
    assert right_share(read_rows(tmp_path / "given" / "eft.jsonl", StepPair)) > 0.9


def test_labels_that_contradict_each_other_and_empty_texts_are_set_aside(tmp_path: Path) -> None:
    good = {"question": "10+10", "prefix": [], "first": "10+10=20", "second": "10+10=30", "winner": "first"}
    second_row = {**good, "question": "11+11", "first": "11+11=22"}
    rows = [
        *({**good, "question": f"{i}+10", "first": f"{i}+10={i + 10}"} for i in range(20, 60)),
        good,
        {**good, "winner": "second"},
        {**second_row, "first": second_row["second"], "second": second_row["first"], "winner": "second"},
        second_row,
        {**good, "question": " "},
        {**good, "first": ""},
        {**good, "first": "10+10=30 "},
    ]
    write_rows(tmp_path / "pairs.jsonl", rows)
    template = tmp_path / "template.md"
    template.write_text("{label}")
    changes = ["eft.problems=null", "eft.labels=null", "eft.teacher=null", f"eft.template={template}"]
    changes.append(f"eft.pairs={tmp_path}/pairs.jsonl")
    config = load_config(world(tmp_path, 3), changes)
    report = eft_report(config, tmp_path / "eft")
    assert report["  − labelled in two ways"] == 2
    assert report["  − the same pair again"] == 1
    assert report["  − an empty question or step"] == 2
    assert report["  − alike but for white space or the end"] == 1

    with pytest.raises(DataError, match="no pair is left to learn from"):
        eft_report(config, tmp_path / "eft", test_share=0.999999)
    assert (tmp_path / "eft" / "eft.jsonl").read_text() == "", "nothing of an earlier run stays"


def test_a_teacher_is_asked_again_only_for_what_concerns_it(tmp_path: Path) -> None:
    path = world(tmp_path, 12)
    files = set()
    for changes in ([], ["generator.temperature=0.9"], ["eft.teacher.backend.wrong=0.1"]):
        config = load_config(path, changes)
        eft_report(config, tmp_path / "eft")
        files |= {file.name for file in (tmp_path / "eft").glob("judged_*")}
    assert len(files) == 2


def tree_of(*verdicts: Verdict) -> StepTree:
    tree = StepTree(Problem("p", "1+1"))
    for verdict in verdicts:
        level = tree.add(None, tuple(Candidate(step(text)) for text in ("a\n", "b\n", "c\n")))
        level.judged, level.verdict = level.nodes, verdict
    return tree


def test_which_pairs_a_level_gives() -> None:
    def vote(first: int, second: int, outcome: str) -> Vote:
        return Vote(first, second, outcome)  # type: ignore[arg-type]

    by_score = Verdict("ok", (0.9, 0.2, 0.2), 0, worst=2, margin=0.8, values=(0.9, 0.2, 0.2))
    by_votes = Verdict(
        "ok", (2, 1, 0), 0, worst=2, margin=0.9, votes=(vote(0, 1, "tie"), vote(1, 0, "tie"), vote(0, 2, "tie"))
    )
    equal = Verdict("no_signal", (0.5, 0.5, 0.5), values=(0.5, 0.5, 0.5))
    silent = Verdict("no_signal", (0.0, 0.0, 0.0), votes=(vote(0, 1, "first"), vote(1, 0, "first")))
    tree = tree_of(by_score, by_votes, equal, silent, Verdict("unparsed", ()), Verdict("error", ()))
    pairs = [
        pair.reason if isinstance(pair, UnlabelledLevel) else (pair.first, pair.second, pair.winner, pair.margin)
        for pair in sibling_pairs(tree, 0)
    ]
    assert pairs[:4] == [
        ("a", "c", "first", 0.8),
        ("b", "c", "tie", 0.5),
        ("a", "c", "first", 0.9),
        ("a", "b", "tie", 0.5),
    ]
    assert pairs[4][2] == "tie"
    assert pairs[5:] == ["labels: no signal", "labels: unparsed", "labels: judge failed"]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("eft=null", "no 'eft' section"),
        ("eft.teacher.kind=random", "a teacher writes judgements, as pairwise does, not 'random'"),
        ("eft.teacher.prompt=judge_pairwise", "are not those of judge.prompt"),
        ("eft.labels.kind=rollout", "eft.labels.kind: unknown kind 'rollout'; did you mean 'rollouts'?"),
        ("eft.problems={path: p, smaple: 3}", "unknown key 'eft.problems.smaple'; did you mean 'sample'?"),
        ("eft.lables.kind=x", "did you mean 'labels'?"),
        ("eft={pairs: p.jsonl}", "labelled pairs of a file have no values for the template to name"),
        ("eft=x", "'eft' input should be"),
        ("eft.pairs=p.jsonl", "give 'problems' and 'labels' to search, or 'pairs'"),
        ("eft.teacher.max_token=3", "did you mean 'max_tokens'?"),
    ],
)
def test_what_cannot_work_is_said_in_one_sentence(tmp_path: Path, change: str, sentence: str) -> None:
    path = world(tmp_path, 3)
    command = [sys.executable, "-m", "stepagent", "data", "eft", str(path), "--out", str(tmp_path / "eft")]
    result = subprocess.run([*command, "--set", change], capture_output=True, text=True, check=False, cwd=BENCHMARKS)
    assert result.returncode == 2
    assert sentence in result.stderr
    assert "Traceback" not in result.stderr


def test_labels_by_rollouts_to_reference_answers(tmp_path: Path) -> None:
    path = world(tmp_path, 40)
    rows = [row for _, row in numbered_rows(tmp_path / "problems.jsonl")]
    answered = [{**row, "answer": str(correct_answer(str(row["question"])))} for row in rows]
    write_rows(tmp_path / "problems.jsonl", answered)
    labels = "{kind: rollouts, target: reference, prompt: demo_solve, rollouts: 24, max_tokens: 80}"
    config = load_config(path, [f"eft.labels={labels}", "eft.teacher=null", "search.width=3"])
    eft_report(config, tmp_path / "eft")
    rows_taught = read_rows(tmp_path / "eft" / "eft.jsonl", StepPair)
    decided = [
        row
        for row in rows_taught
        if row.winner != "tie" and len(row.prefix) == 2
        if all(line_is_right(row.question, row.prefix[:place], row.prefix[place]) for place in (0, 1))
    ]  # after them nothing can go wrong, so rollouts tell right from wrong; before, slips cancel each other
    assert len(decided) >= 10
    assert right_share(decided) == 1.0
    trees = read_rows(tmp_path / "eft" / "trees.jsonl", StepTree)
    assert all(tree.problem.answer is None for tree in trees)
