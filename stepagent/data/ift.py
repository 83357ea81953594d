"""Stage: whole solutions {x, y} -> IFT rows whose solutions are marked as steps, ready for `init`."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stepagent.answers import is_correct
from stepagent.assembly.components import check_generator
from stepagent.config.settings import Config
from stepagent.console import bar, table
from stepagent.data.cutting import WORDS, cut, joins_to
from stepagent.data.cutting_by_model import cut_by_model, cut_key
from stepagent.errors import DataError
from stepagent.files.jsonl import dump_any, write_rows
from stepagent.files.problems import held_out_keys, question_key
from stepagent.files.tables import read_raw
from stepagent.files.texts import unusable_text
from stepagent.generators.boundaries import BoundaryKind

NO_STEPS = "shows no steps"


@dataclass(frozen=True, slots=True)
class CutRow:
    """An IFT row: `steps` join to the solution as the generator is to write it."""

    question: str
    steps: tuple[str, ...]
    cut_by: str
    answer: str | None = None


@dataclass(slots=True)
class Columns:
    """The names of a source's columns, and whether its answers are to be reached."""

    question: str = "question"
    solution: str = "solution"
    answer: str | None = None


@dataclass(slots=True)
class _Kept:
    counts: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)


def ift_stage(
    config: Config,
    source: str,
    columns: Columns,
    by_model: bool,
    model: str,
    out: Path,
    words: tuple[int, int] = WORDS,
) -> None:
    """Cut every solution of `source` into steps: `out`/ift.jsonl; those that cannot be used go to
    `out`/set_aside.jsonl with the reason. With `by_model` the config's model cuts what no rule can; its cuts
    count only if they join to the very text. One row at a time in memory, but for
    those that the model has to cut. Raises DataError or ConfigError."""
    boundary: BoundaryKind = config.generator.arguments().get("boundary", "marker")
    kept = _Kept()
    held_out = held_out_keys(config, out)
    seen: set[str] = set()
    first: dict[str, Any] = {}
    check_generator(config)
    aside = out / "set_aside.jsonl"
    out.mkdir(parents=True, exist_ok=True)
    left = out / "to_cut.jsonl"
    with aside.open("w", encoding="utf-8") as bad, left.open("w", encoding="utf-8") as hard:

        def set_aside(where: str, reason: str, row: Mapping[str, Any]) -> None:
            kept.reasons[reason] += 1
            bad.write(dump_any({"where": where, "reason": reason, "row": dict(row)}))

        def known(question: str, solution: str) -> str | None:
            if question_key(question) in held_out:
                return "a problem that evaluate.problems holds"
            if (key := cut_key(question, solution)) in seen:
                return "the same solution again"
            seen.add(key)
            return None

        def rows() -> Iterator[CutRow]:
            with bar("solutions", None) as progress:
                for where, row in read_raw(source):
                    progress.advance()
                    first.update(row if not first else {})
                    found = _cut_row(columns, boundary, words, row)
                    if isinstance(found, CutRow) or found == NO_STEPS:
                        found = known(row[columns.question], row[columns.solution]) or found
                    if isinstance(found, CutRow):
                        kept.counts[found.cut_by] += 1
                        yield found
                    elif found == NO_STEPS and by_model:
                        hard.write(dump_any({"where": where, "row": dict(row)}))
                    else:
                        set_aside(where, found, row)
            if by_model:
                hard.flush()
                yield from hard_ones()
            if not kept.counts:
                raise DataError(_nothing(source, columns, first, aside))

        def hard_ones() -> Iterator[CutRow]:
            found = [(item["where"], item["row"]) for _, item in read_raw(left)]
            texts = [(str(row[columns.question]), str(row[columns.solution])) for _, row in found]
            cuts = cut_by_model(config, model, {cut_key(*text): text for text in texts}, out)
            for (where, row), text in zip(found, texts, strict=True):
                cut = cuts[cut_key(*text)]
                answer = row.get(columns.answer) if columns.answer else None
                made = cut.why or _rendered(text[0], list(cut.steps), "the model", boundary, answer)
                if isinstance(made, CutRow):
                    kept.counts[made.cut_by] += 1
                    yield made
                else:
                    set_aside(where, made, row)

        try:
            write_rows(out / "ift.jsonl", rows())
        finally:
            left.unlink()
    figures = {f"  by {name}": count for name, count in kept.counts.most_common()}
    reasons = {f"  {name}": count for name, count in kept.reasons.most_common()}
    table(
        f"IFT: {source}",
        {"cut into steps": kept.counts.total(), **figures, "set aside": kept.reasons.total(), **reasons},
    )


def _nothing(source: str, columns: Columns, first: Mapping[str, Any], aside: Path) -> str:
    """Why a source gave no row at all; `first` is its first."""
    if not first:
        return f"{source}: no rows in it"
    for name in (columns.question, columns.solution, columns.answer):
        if name and name not in first:
            return f"{source}: no column '{name}'; it has {', '.join(first)}"
    return f"{source}: no solution could be cut into steps; {aside} says why"


def _cut_row(
    columns: Columns, boundary: BoundaryKind, words: tuple[int, int], row: Mapping[str, Any]
) -> CutRow | str:
    """The row, or why it cannot be used."""
    question, solution = row.get(columns.question), row.get(columns.solution)
    if not isinstance(question, str) or not question.strip():
        return f"no text in '{columns.question}'"
    if not isinstance(solution, str) or not solution.strip():
        return f"no text in '{columns.solution}'"
    if flaw := unusable_text(question) or unusable_text(solution):
        return flaw
    answer = row.get(columns.answer) if columns.answer else None
    if columns.answer and answer in (None, ""):
        return f"no '{columns.answer}' to reach"
    if answer is not None and not is_correct(solution, str(answer)):
        return "does not reach its answer"
    found = cut(solution, words)
    if found is None:
        return NO_STEPS
    steps, rule = found
    if not joins_to(steps, solution):
        return "the cut would change the text"
    return _rendered(question, steps, f"{rule} rule", boundary, answer)


def _rendered(
    question: str, steps: list[str], by: str, boundary: BoundaryKind, answer: object
) -> CutRow | str:
    """The steps as the generator writes them, each with what ends it."""
    if boundary == "marker":
        if any(re.search(r"(?m)^Step \d+:", step) for step in steps):
            return "holds step marks of its own"
        texts = [f"Step {number}: {step}" for number, step in enumerate(steps, start=1)]
        pieces = [f"{text}\n" for text in texts[:-1]]
    elif boundary == "line":
        texts = [re.sub(r"\s*\n\s*", " ", step) for step in steps]
        pieces = [f"{text}\n" for text in texts[:-1]]
    else:
        texts = [re.sub(r"\n\s*\n", "\n", step) for step in steps]
        pieces = [f"{text}\n\n" for text in texts[:-1]]
    return CutRow(question, (*pieces, texts[-1]), by, None if answer is None else str(answer))
