"""Step trees -> the rows of preferences.jsonl, with a count of every level that made none, and why."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from stepagent.tree import Level, StepTree, context_text, joined_ids
from stepagent.types import SiblingPairs, StepPreference, Verdict

PAIR = "pair"
_NOISE = 1e-9  # of fitted strengths: siblings that lie closer are equal


def level_outcome(level: Level) -> str:
    """Return the fate of a level: `pair`, or the reason why it makes none."""
    if level.abandoned and level.chosen is not None:
        return "rolled back"
    if level.abandoned and level.verdict is not None and level.verdict.status == "ok":
        return "branch left"
    if not level.judged:
        return "only flawed candidates"
    if level.verdict is None and len(level.judged) > 1:
        return "not judged"
    if level.verdict is None:
        alike = len(level.nodes) == len(level.judged)
        return "all candidates alike" if alike else "one sound candidate"
    if level.verdict.status != "ok":
        return {
            "no_signal": "no signal",
            "unparsed": "verdicts unparsed",
            "error": "judge failed",
        }[level.verdict.status]
    return PAIR


def tree_preferences(tree: StepTree, pairs: SiblingPairs = "best_worst") -> Iterable[StepPreference]:
    """Return the preferences of the judged levels of the surviving path: {x, s_1..s_{l-1}, s_b, s_w}, or those of more
    siblings."""
    return (preference for _, preference in preference_levels(tree, pairs))


def preference_levels(tree: StepTree, pairs: SiblingPairs = "best_worst") -> Iterable[tuple[Level, StepPreference]]:
    """Yield each level that makes preferences, once with each of them."""
    for depth, level in enumerate(tree.surviving_levels(), start=1):
        if level_outcome(level) != PAIR:
            continue
        assert level.verdict is not None
        ordered = ordered_pairs(level.verdict, pairs)
        prefix = tree.prefix(level.parent)
        prefix_ids = joined_ids(prefix)
        for chosen, rejected, margin in ordered:
            better, worse = tree.step(level.judged[chosen]), tree.step(level.judged[rejected])
            ids = prefix_ids
            if ids is not None:  # siblings share the thought before them
                ids = None if better.thought_ids is None else ids + better.thought_ids
            has_ids = tree.context_ids is not None and ids is not None
            preference = StepPreference(
                prompt=tree.context_text + context_text(prefix) + better.thought,
                chosen=better.text,
                rejected=worse.text,
                question=tree.problem.question,
                prefix=tuple(step.text for step in prefix),
                prompt_ids=(tree.context_ids or ()) + (ids or ()) if has_ids else None,
                chosen_ids=better.token_ids,
                rejected_ids=worse.token_ids,
                chosen_ends=better.ends,
                rejected_ends=worse.ends,
                margin=margin,
                problem_id=tree.problem.id,
                depth=depth,
                round=tree.round,
                generator=tree.generator,
                judge=tree.judge,
                tokenizer_sha256=tree.tokenizer_sha256,
                weight=1 / len(ordered),
            )
            yield level, preference


def ordered_pairs(verdict: Verdict, pairs: SiblingPairs) -> list[tuple[int, int, float]]:
    """Return (better, worse, margin) for pairs of the candidates of an "ok" verdict: its best and its worst; with
    `best_rest` also the best and each other one that scored less; with `all` every two whose scores differ.

    The verdict says the margin of best and worst alone. That of two others lies as far above 0.5 as their distance in
    score is of the largest one.
    """
    best, worst = verdict.best, verdict.worst
    assert best is not None
    assert worst is not None
    margin = verdict.margin if verdict.margin is not None else 0.5
    scores = verdict.scores
    firsts: Sequence[int] = {"best_worst": [], "best_rest": [best], "all": range(len(scores))}[pairs]
    distances = {
        (first, second): scores[first] - scores[second]
        for first in firsts
        for second in range(len(scores))
        if scores[first] > scores[second] + _NOISE and (first, second) != (best, worst)
    }
    largest = max(scores[best] - scores[worst], *distances.values(), 0.0)
    triples = [(*pair, 0.5 + (margin - 0.5) * distance / largest) for pair, distance in distances.items()]
    return [(best, worst, margin), *triples]
