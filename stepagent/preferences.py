"""Step trees -> the rows of preferences.jsonl, with a count of every level that made none, and why."""

from __future__ import annotations

from collections.abc import Iterable

from stepagent.tree import Level, StepTree, context_text, joined_ids
from stepagent.types import StepPreference

PAIR = "pair"


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


def tree_preferences(tree: StepTree) -> Iterable[StepPreference]:
    """One preference per judged level of the surviving path: {x, s_1..s_{l-1}, s_b, s_w}."""
    return (preference for _, preference in preference_levels(tree))


def preference_levels(tree: StepTree) -> Iterable[tuple[Level, StepPreference]]:
    """Yield each level that makes a preference, with it."""
    for depth, level in enumerate(tree.surviving_levels(), start=1):
        if level_outcome(level) != PAIR:
            continue
        verdict = level.verdict
        assert verdict is not None
        assert verdict.best is not None
        assert verdict.worst is not None
        best = tree.step(level.judged[verdict.best])
        worst = tree.step(level.judged[verdict.worst])
        prefix = tree.prefix(level.parent)
        ids = joined_ids(prefix)
        if ids is not None:  # siblings share the thought before them
            ids = None if best.thought_ids is None else ids + best.thought_ids
        has_ids = tree.context_ids is not None and ids is not None
        yield (
            level,
            StepPreference(
                prompt=tree.context_text + context_text(prefix) + best.thought,
                chosen=best.text,
                rejected=worst.text,
                question=tree.problem.question,
                prefix=tuple(step.text for step in prefix),
                prompt_ids=(tree.context_ids or ()) + (ids or ()) if has_ids else None,
                chosen_ids=best.token_ids,
                rejected_ids=worst.token_ids,
                chosen_ends=best.ends,
                rejected_ends=worst.ends,
                margin=verdict.margin if verdict.margin is not None else 0.5,
                problem_id=tree.problem.id,
                depth=depth,
                round=tree.round,
                generator=tree.generator,
                judge=tree.judge,
                tokenizer_sha256=tree.tokenizer_sha256,
            ),
        )
