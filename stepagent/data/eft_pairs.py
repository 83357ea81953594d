"""Labelled sibling pairs out of judged trees: which are taken, and to which side of the split they go."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from stepagent.config.prompts import Labels, PromptTemplate, load_prompt
from stepagent.files.problems import question_key
from stepagent.files.rows import EftRow
from stepagent.seeds import derive_seed
from stepagent.tree import Level, StepTree
from stepagent.types import Score, Verdict, Vote


@dataclass(frozen=True, slots=True)
class SiblingPair:
    """Two siblings as `one` and `other`. `one` is better, or (`tie`) they are labelled as equal; `margin` is
    the labelling judge's, `values` are its values of both, in [0, 1]. `id` is the same for the same texts."""

    id: str
    problem_id: str
    question: str
    prefix: tuple[str, ...]
    one: str
    other: str
    tie: bool
    margin: float
    values: tuple[Score, Score]


@dataclass(frozen=True, slots=True)
class UnlabelledLevel:
    """A level whose verdict labels no pair, and why."""

    problem_id: str
    reason: str


UNLABELLED = {
    "no_signal": "labels: no signal",
    "unparsed": "labels: unparsed",
    "error": "labels: judge failed",
}


def sibling_pairs(tree: StepTree, seed: int) -> Iterator[SiblingPair | str]:
    """Per judged level its best and worst step, then one pair that is labelled as equal, drawn by `seed`; for
    a level whose verdict gives neither, the reason. Levels of abandoned branches count: a judgement does not
    ask where the path went on."""
    for number, level in enumerate(tree.levels):
        verdict = level.verdict
        if verdict is None:
            continue
        equal = _equal_pairs(verdict)
        if verdict.status == "ok":
            assert verdict.best is not None
            assert verdict.worst is not None
            yield _pair(tree, level, verdict, verdict.best, verdict.worst, tie=False)
        elif verdict.status != "no_signal" or not equal:
            yield UNLABELLED[verdict.status]
        if equal and verdict.status in ("ok", "no_signal"):
            rng = random.Random(derive_seed(seed, tree.problem.id, number, "equal siblings"))
            yield _pair(tree, level, verdict, *rng.choice(equal), tie=True)


def _pair(tree: StepTree, level: Level, verdict: Verdict, one: int, other: int, *, tie: bool) -> SiblingPair:
    prefix = tuple(step.text for step in tree.prefix(level.parent))
    first, second = (tree.step(level.judged[index]).content for index in (one, other))
    values = verdict.values or (math.nan,) * len(level.judged)
    return SiblingPair(
        id=_name(tree.problem.question, prefix, first, second),
        problem_id=tree.problem.id,
        question=tree.problem.question,
        prefix=prefix,
        one=first,
        other=second,
        tie=tie,
        margin=0.5 if tie else verdict.margin or 0.5,
        values=(values[one], values[other]),
    )


def given_pair(row: EftRow) -> SiblingPair:
    """A labelled pair of a file, without values; its problem is its question."""
    one, other = (row.second, row.first) if row.winner == "second" else (row.first, row.second)
    name = _name(row.question, row.prefix, one, other)
    margin = 0.5 if row.winner == "tie" else 1.0
    values = (math.nan, math.nan)
    return SiblingPair(name, name, row.question, row.prefix, one, other, row.winner == "tie", margin, values)


def _name(question: str, prefix: Sequence[str], one: str, other: str) -> str:
    return f"{derive_seed(question, *prefix, '|', *sorted((one, other))):016x}"


def _equal_pairs(verdict: Verdict) -> list[tuple[int, int]]:
    """Pairs called a tie in both seats; for judges without votes, those of the same score."""
    if verdict.votes:
        ties = {(vote.first, vote.second) for vote in verdict.votes if vote.outcome == "tie"}
        return sorted((a, b) for a, b in ties if a < b and (b, a) in ties)
    scores = verdict.scores
    return [(a, b) for a, b in combinations(range(len(scores)), 2) if scores[a] == scores[b]]


def is_test(question: str, share: float, seed: int) -> bool:
    """Whether a problem belongs to the test sets: decided by its question, so that whatever holds the same
    question lands on the same side."""
    return random.Random(derive_seed(seed, "test problem", question_key(question))).random() < share


def agreed(votes: Sequence[Vote]) -> tuple[Vote, Vote] | None:
    """The two votes on a pair, (0, 1) then (1, 0), if both came with a written judgement."""
    by_seats = {(vote.first, vote.second): vote for vote in votes if not vote.asked_again}
    try:
        both = by_seats[0, 1], by_seats[1, 0]
    except KeyError:
        return None
    return both if all(vote.outcome in ("first", "second", "tie") for vote in both) else None


def seat_row(pair: SiblingPair, swapped: bool) -> EftRow:
    """The pair without a judgement; `swapped`: `other` sits first."""
    first, second = (pair.other, pair.one) if swapped else (pair.one, pair.other)
    return EftRow(
        pair.question,
        pair.prefix,
        first,
        second,
        winner="tie" if pair.tie else "second" if swapped else "first",
    )


def load_template(name: str) -> PromptTemplate:
    """A prompt file that stands for a teacher. Raises ConfigError."""
    names = ("question", "prefix", "first", "second", "first_value", "second_value", "label")
    return replace(load_prompt(name, ("label",)), names=names)


def template_rows(template: PromptTemplate, labels: Labels, pair: SiblingPair) -> list[EftRow]:
    """What the template writes of a pair, in both seats."""
    rows = []
    for swapped in (False, True):
        row = seat_row(pair, swapped)
        label = {"first": labels.first, "second": labels.second}.get(str(row.winner), labels.tie or "")
        values = pair.values[::-1] if swapped else pair.values
        shown = [f"{value:.2f}" if value == value else "unknown" for value in values]
        filled = template.messages(
            {**row.values(), "label": label, "first_value": shown[0], "second_value": shown[1]}
        )
        rows.append(replace(row, judgement=filled[-1].content))
    return rows
