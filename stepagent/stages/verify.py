"""Stage: a second judge confirms the pairs of a search before they are trained."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from stepagent.assembly.session import Session
from stepagent.console import table
from stepagent.errors import DataError
from stepagent.files.jsonl import iter_numbered, read_lines, write_json, write_rows
from stepagent.files.resumable import ResumableFile, fill
from stepagent.interfaces import Judge
from stepagent.preferences import preference_levels
from stepagent.seeds import derive_seed
from stepagent.stages.measure_judge import raise_failures
from stepagent.tree import Level, StepTree
from stepagent.types import ModelVersion, StepPreference, Usage, Verdict


@dataclass(frozen=True, slots=True)
class VerifiedPair:
    """The second judge's verdict on a pair: index 0 is the step that the search chose."""

    id: str
    verdict: Verdict

    @property
    def outcome(self) -> str:
        """`confirmed`, `refuted`, or `undecided` if the judge saw no difference."""
        if self.verdict.status != "ok":
            return "undecided"
        return "confirmed" if self.verdict.best == 0 else "refuted"


def verify(session: Session, model: ModelVersion, preferences: Path) -> Path:
    """Ask the judge of the config's section `verify` about the pairs of the search in `preferences`' folder, and write
    the confirmed ones to confirmed.jsonl there. Returns that file, or `preferences` if there is no such section.
    Verdicts of a killed run are kept. Raises ConfigError, BackendError, and DataError if no pair is confirmed."""
    settings = session.config.verify
    if settings is None:
        return preferences
    folder = preferences.parent
    trees, verdicts, confirmed = (folder / name for name in ("trees.jsonl", "judged_pairs.jsonl", "confirmed.jsonl"))
    bound = session.binder.other_judge("verify", settings)
    session.run_folder.stage(
        session.stage_name("verify", folder),
        inputs={"model": Path(model.path), "trees": trees, "preferences": preferences},
        outputs={"verdicts": verdicts, "confirmed": confirmed},
        identity=[session.bound.backend.identity(), bound.identity(), session.config.seed],
        work=lambda: _verify(
            session, session.judge(bound, model, None), preferences, verdicts=verdicts, confirmed=confirmed
        ),
    )
    return confirmed


def _verify(session: Session, judge: Judge, preferences: Path, *, verdicts: Path, confirmed: Path) -> None:
    config, trees = session.config, preferences.with_name("trees.jsonl")
    total = sum(1 for _ in read_lines(preferences))

    async def verdict_on(pair: tuple[StepTree, Level, StepPreference]) -> VerifiedPair:
        tree, level, row = pair
        assert level.verdict is not None
        ends = (level.verdict.best, level.verdict.worst)
        steps = [tree.step(level.judged[end]) for end in ends if end is not None]
        seed = derive_seed(config.seed, "verify", _key(row))
        problem = tree.problem.without_answer()
        return VerifiedPair(_key(row), await judge.judge(problem, tree.prefix(level.parent), steps, seed))

    with ResumableFile(verdicts, VerifiedPair, key=lambda row: row.id, failed=lambda row: row.verdict.failed) as file:
        items = ((_key(pair[2]), pair) for pair in _pairs(trees))
        session.run(fill(file, items, verdict_on, label="verify", total=total, concurrency=config.concurrency))
        errors, counts, usage, confirmed_ids = [], Counter[str](), Usage(), set()
        for row in file:
            if row.verdict.failed:
                errors.append(row.verdict.error)
            if row.outcome == "confirmed":
                confirmed_ids.add(row.id)
            counts[row.outcome] += 1
            usage += row.verdict.usage
        raise_failures(errors, total)
    pairs = (pair for _, pair in iter_numbered(preferences, StepPreference))
    write_rows(confirmed, (pair for pair in pairs if _key(pair) in confirmed_ids))
    outcomes = {outcome: counts[outcome] for outcome in ("confirmed", "refuted", "undecided")}
    figures: dict[str, object] = {"pairs": total, **outcomes, "sampled tokens": usage.completion_tokens}
    write_json(confirmed.with_name("verify.json"), figures)
    table(f"Verified: {trees.parent.name}", figures, ("pairs", "confirmed", "refuted", "undecided"))
    if total and not counts["confirmed"]:
        reasons = ", ".join(f"{count} {outcome}" for outcome, count in outcomes.items() if count)
        raise DataError(
            f"verify: none of the {total} pairs of {trees} was confirmed ({reasons}); nothing can be trained"
        )


def _pairs(trees: Path) -> Iterator[tuple[StepTree, Level, StepPreference]]:
    """Yield the pairs of a file of trees, in its order."""
    for _, tree in iter_numbered(trees, StepTree):
        for level, row in preference_levels(tree):
            yield tree, level, row


def _key(row: StepPreference) -> str:
    return f"{row.problem_id} {row.depth}"
