"""Labelled sibling pairs out of judged trees: which are taken, and to which side of the split they go."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from stepagent.config.prompts import Labels, PromptTemplate, comparison_values, load_prompt
from stepagent.files.problems import question_key
from stepagent.seeds import derive_seed
from stepagent.tree import Level, StepTree
from stepagent.types import StepPair, Verdict, Vote


@dataclass(frozen=True, slots=True)
class UnlabelledLevel:
    """A level whose verdict labels no pair, and the reason."""

    problem_id: str
    reason: str


UNLABELLED = {
    "no_signal": "labels: no signal",
    "unparsed": "labels: unparsed",
    "error": "labels: judge failed",
}


def sibling_pairs(tree: StepTree, seed: int) -> Iterator[StepPair | UnlabelledLevel]:
    """Per judged level its best and worst step, then one pair that is labelled as equal, drawn by `seed`; for a level
    whose verdict gives neither, the reason. The better step stands first. Levels of abandoned branches count: a
    judgement does not ask where the path went on."""
    for number, level in enumerate(tree.levels):
        verdict = level.verdict
        if verdict is None:
            continue
        equal = _equal_pairs(verdict)
        if verdict.status == "ok":
            assert verdict.best is not None
            assert verdict.worst is not None
            yield _pair(tree, level, verdict, indices=(verdict.best, verdict.worst), tie=False)
        elif verdict.status != "no_signal" or not equal:
            yield UnlabelledLevel(tree.problem.id, UNLABELLED[verdict.status])
        if equal and verdict.status in ("ok", "no_signal"):
            rng = random.Random(derive_seed(seed, tree.problem.id, number, "equal siblings"))
            yield _pair(tree, level, verdict, indices=rng.choice(equal), tie=True)


def _pair(tree: StepTree, level: Level, verdict: Verdict, *, indices: tuple[int, int], tie: bool) -> StepPair:
    first, second = indices
    return StepPair(
        question=tree.problem.question,
        prefix=tuple(step.text for step in tree.prefix(level.parent)),
        first=tree.step(level.judged[first]).content,
        second=tree.step(level.judged[second]).content,
        winner="tie" if tie else "first",
        margin=0.5 if tie else verdict.margin or 0.5,
        values=(verdict.values[first], verdict.values[second]) if verdict.values else None,
        problem_id=tree.problem.id,
    )


def better_first(pair: StepPair) -> StepPair:
    """Return a labelled pair of a file with the better step first; its label is certain, its problem is its
    question."""
    ordered = pair.swapped() if pair.winner == "second" else pair
    return replace(ordered, margin=0.5 if pair.winner == "tie" else 1.0, values=None, problem_id=pair.id)


def _equal_pairs(verdict: Verdict) -> list[tuple[int, int]]:
    """Pairs called a tie in both positions; for judges without votes, those of the same score."""
    if verdict.votes:
        ties = {(vote.first, vote.second) for vote in verdict.votes if vote.outcome == "tie"}
        return sorted((a, b) for a, b in ties if a < b and (b, a) in ties)
    scores = verdict.scores
    return [(a, b) for a, b in combinations(range(len(scores)), 2) if scores[a] == scores[b]]


def is_test(question: str, share: float, seed: int) -> bool:
    """Whether a problem belongs to the test sets: decided by its question, so that all rows of the same question land
    on the same side."""
    return random.Random(derive_seed(seed, "test problem", question_key(question))).random() < share


def written_votes(votes: Sequence[Vote]) -> tuple[Vote, Vote] | None:
    """Return the two votes on a pair, (0, 1) then (1, 0), if both came with a written judgement."""
    by_order = {(vote.first, vote.second): vote for vote in votes if not vote.asked_again}
    try:
        pair = by_order[0, 1], by_order[1, 0]
    except KeyError:
        return None
    return pair if all(vote.outcome in ("first", "second", "tie") for vote in pair) else None


def load_template(name: str) -> PromptTemplate:
    """Return a prompt file that stands for a teacher. Raises ConfigError."""
    names = ("question", "prefix", "first", "second", "first_value", "second_value", "label")
    return replace(load_prompt(name, ("label",)), names=names)


def template_rows(template: PromptTemplate, labels: Labels, pair: StepPair) -> tuple[StepPair, StepPair]:
    """Return the pair in both orders, with the judgement that the template writes."""
    swapped = pair.swapped()
    return (
        replace(pair, judgement=_filled(template, labels, pair)),
        replace(swapped, judgement=_filled(template, labels, swapped)),
    )


def _filled(template: PromptTemplate, labels: Labels, pair: StepPair) -> str:
    label = {"first": labels.first, "second": labels.second}.get(str(pair.winner), labels.tie or "")
    values = [f"{value:.2f}" if value == value else "unknown" for value in pair.values or (float("nan"),) * 2]
    names = comparison_values(pair.question, "".join(pair.prefix), pair.first, second=pair.second)
    messages = template.messages({**names, "label": label, "first_value": values[0], "second_value": values[1]})
    return messages[-1].content
