"""Whole solutions {x, y} -> instruction fine-tuning (IFT) rows whose solutions are marked as steps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from stepagent.answers import is_final
from stepagent.assembly.session import Session
from stepagent.console import bar, output, table, visible
from stepagent.data.cutting import WORDS, cut, joins_to
from stepagent.data.cutting_by_model import cut_by_model, cut_key
from stepagent.errors import DataError
from stepagent.files.jsonl import dump_any, write_rows
from stepagent.files.problems import ProblemFile, question_key
from stepagent.files.rows import IftRow
from stepagent.files.tables import read_raw
from stepagent.files.texts import unusable_text
from stepagent.files.values import cell_text
from stepagent.generators.boundaries import BoundaryKind, boundary_kind, join
from stepagent.graders.marking import mark
from stepagent.graders.math import MathGrader
from stepagent.interfaces import Grader
from stepagent.types import ModelVersion, Problem

NO_STEPS = "shows no steps"
_EXAMPLES = 5  # printed of each reason


@dataclass(frozen=True, slots=True)
class Columns:
    """The names of a source's columns; with an `answer` column only solutions that reach theirs are taken."""

    question: str = "question"
    solution: str = "solution"
    answer: str | None = None


def make_ift(
    session: Session,
    source: str,
    columns: Columns,
    *,
    words: tuple[int, int] = WORDS,
    model: ModelVersion | None = None,
) -> None:
    """Cut every solution of `source` into steps: ift.jsonl in the session's folder; those that cannot be used go to
    set_aside.jsonl with the reason. A `model` cuts those that no rule can cut; its cuts count only if they join to
    the very text. One row at a time in memory, but for those that the model has to cut. Raises DataError or
    ConfigError."""
    out = session.folder
    boundary = boundary_kind(session.binder.generator().arguments.get("boundary")) or "marker"
    held_out = held_out_keys(session)
    aside, uncut = out / "set_aside.jsonl", out / "to_cut.jsonl"
    out.mkdir(parents=True, exist_ok=True)
    try:
        with aside.open("w", encoding="utf-8") as aside_file, uncut.open("w", encoding="utf-8") as uncut_file:
            cutter = _Cutter(columns, boundary, words, held_out=held_out, aside=aside_file, grader=session.grader)

            def rows() -> Iterator[IftRow]:
                yield from cutter.by_rule(source, uncut_file if model else None)
                uncut_file.flush()
                if model:
                    yield from cutter.by_model(session, model, uncut)
                if not cutter.counts:
                    raise DataError(_nothing(source, columns, cutter.first, cutter.reasons, aside=aside))

            write_rows(out / "ift.jsonl", rows())
    finally:
        uncut.unlink(missing_ok=True)
    cut_by = {f"  by {name}": count for name, count in cutter.counts.most_common()}
    reasons = {f"  {name}": count for name, count in cutter.reasons.most_common()}
    table(
        f"IFT: {source}",
        {"cut into steps": cutter.counts.total(), **cut_by, "set aside": cutter.reasons.total(), **reasons},
        ("cut into steps", "set aside"),
    )
    for reason, examples in cutter.examples.items():
        output.print(f"set aside, {reason}:", style="dim", highlight=False)
        for example in examples:
            output.print(f"  {visible(example)}", style="dim", highlight=False, markup=False, soft_wrap=True)


def held_out_keys(session: Session) -> set[int]:
    """Return the `question_key` of every problem that the config evaluates on: no training data may hold them."""
    settings = session.config.evaluate
    return ProblemFile.of(settings.problems, session.folder).keys() if settings else set()


class _Cutter:
    """Turns a source's rows into IFT rows, and counts rules and reasons."""

    def __init__(
        self,
        columns: Columns,
        boundary: BoundaryKind,
        words: tuple[int, int],
        *,
        held_out: set[int],
        aside: TextIO,
        grader: Grader,
    ) -> None:
        self.counts: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()
        self.examples: dict[str, list[str]] = {}
        self.first: dict[str, Any] = {}
        self._columns = columns
        self._boundary = boundary
        self._words = words
        self._held_out = held_out
        self._aside = aside
        self._grader = grader
        self._keys: set[str] = set()

    def by_rule(self, source: str, uncut: TextIO | None) -> Iterator[IftRow]:
        """Return the rows that a rule can cut; those without visible steps go to `uncut`, if it is given."""
        with bar("solutions", None) as progress:
            for place, row in read_raw(source):
                progress.advance()
                self.first = self.first or dict(row)
                result = self._cut(row)
                if isinstance(result, IftRow) or result == NO_STEPS:
                    result = self._repeated(row) or result
                if isinstance(result, IftRow):
                    yield self._counted(result)
                elif result == NO_STEPS and uncut:
                    uncut.write(dump_any({"where": place, "row": dict(row)}))
                else:
                    self._set_aside(place, result, row)

    def by_model(self, session: Session, model: ModelVersion, uncut: Path) -> Iterator[IftRow]:
        """Return the rows of the file `uncut` that a model can cut."""
        columns = self._columns
        entries = [(entry["where"], entry["row"]) for _, entry in read_raw(uncut)]
        texts = [(str(row[columns.question]), str(self._solution(row)[0])) for _, row in entries]
        cuts = cut_by_model(session, model, {cut_key(*pair): pair for pair in texts})
        for (place, row), pair in zip(entries, texts, strict=True):
            model_cut = cuts[cut_key(*pair)]
            answer = self._answer(row)
            result = model_cut.reason or self._joined(pair[0], list(model_cut.steps), "the model", answer=answer)
            if isinstance(result, IftRow):
                yield self._counted(result)
            else:
                self._set_aside(place, result, row)

    def _counted(self, row: IftRow) -> IftRow:
        self.counts[row.cut_by] += 1
        return row

    def _set_aside(self, place: str, reason: str, row: Mapping[str, Any]) -> None:
        self.reasons[reason] += 1
        if self.reasons[reason] <= _EXAMPLES:
            text = " ".join(str(self._solution(row)[0] or "").split())
            self.examples.setdefault(reason, []).append(f"{place}: {text[:80]}")
        self._aside.write(dump_any({"where": place, "reason": reason, "row": dict(row)}))

    def _repeated(self, row: Mapping[str, Any]) -> str | None:
        question = row[self._columns.question]
        solution = str(self._solution(row)[0])
        if question_key(question) in self._held_out:
            return "a problem that evaluate.problems holds"
        if (key := cut_key(question, solution)) in self._keys:
            return "the same solution again"
        self._keys.add(key)
        return None

    def _cut(self, row: Mapping[str, Any]) -> IftRow | str:
        """Return the row, or the reason why it cannot be used."""
        columns = self._columns
        question = row.get(columns.question)
        solution, file_steps = self._solution(row)
        if not isinstance(question, str) or not question.strip():
            return f"no text in '{columns.question}'"
        if not isinstance(solution, str) or not solution.strip():
            return f"no text in '{columns.solution}'"
        if flaw := unusable_text(question) or unusable_text(solution):
            return flaw
        answer = self._answer(row)
        if columns.answer and not answer:
            return f"no '{columns.answer}' to reach"
        if answer and isinstance(self._grader, MathGrader) and not is_final(answer):
            return "an answer that is a whole solution"
        if answer:
            answered = mark(self._grader, Problem("", question, answer), solution)
            if not answered.right:
                return answered.error or "does not reach its answer"
        if len(file_steps) > 1 and joins_to(file_steps, solution):
            result = self._joined(question, file_steps, "steps of the file", answer=answer)
            if isinstance(result, IftRow):
                return result
        pieces = cut(solution, self._words)
        if pieces is None:
            return NO_STEPS
        steps, rule = pieces
        if not joins_to(steps, solution):
            return "the cut would change the text"
        return self._joined(question, steps, f"{rule} rule", answer=answer)

    def _answer(self, row: Mapping[str, Any]) -> str | None:
        """Return the answer that a row's solution must reach, or None if the row or the command names none."""
        if self._columns.answer is None:
            return None
        try:
            return cell_text(row.get(self._columns.answer))
        except ValueError:
            return None

    def _solution(self, row: Mapping[str, Any]) -> tuple[object, list[str]]:
        """Return the text of a row's solution, and the steps that the row brings, in the solution's column or in
        "steps": the text is theirs if there is no other."""
        solution = row.get(self._columns.solution)
        steps = solution if isinstance(solution, list | tuple) else row.get("steps")
        if not isinstance(steps, list | tuple) or not all(isinstance(step, str) for step in steps):
            return solution, []
        texts = [step.strip() for step in steps if step.strip()]
        return solution if isinstance(solution, str) else "\n\n".join(texts), texts

    def _joined(self, question: str, steps: list[str], cut_by: str, *, answer: str | None) -> IftRow | str:
        texts = join(self._boundary, steps)
        if texts is None:
            return "holds step marks of its own"
        return IftRow(question, steps=texts, cut_by=cut_by, answer=answer)


def _nothing(source: str, columns: Columns, first: Mapping[str, Any], reasons: Counter[str], *, aside: Path) -> str:
    """Return the sentence on a source that gave no row at all; `first` is its first row, `reasons` are those of all."""
    if not first:
        return f"{source}: no rows in it"
    for name in (columns.question, columns.solution, columns.answer):
        if name and name not in first:
            return f"{source}: no column '{name}'; it has {', '.join(first)}"
    commonest, count = reasons.most_common(1)[0]
    share = f"{count} of {reasons.total()}: {commonest}"
    return f"{source}: no solution could be cut into steps ({share}); {aside} says why"
