"""Evaluation fine-tuning (EFT) data: M_0 and problems -> rows {x, s_1..s_{l-1}, s_l^1, s_l^2, judge} and two test
sets for judges.

Search, labels for sibling pairs, a written judgement of each in both positions, filters, a split by problem (arXiv
2503.03746, section 3.1, with any judge in the place of its process reward model and any teacher in that of o1).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from stepagent.assembly.binding import Bound
from stepagent.assembly.session import Session
from stepagent.config.component import Component
from stepagent.config.prompts import Labels, PromptTemplate
from stepagent.config.settings import Config, EftSettings, ProblemSettings
from stepagent.console import closing_table_only, table
from stepagent.data.eft_filters import Filters, Funnel, TaughtPair
from stepagent.data.eft_pairs import (
    UnlabelledLevel,
    better_first,
    load_template,
    sibling_pairs,
    template_rows,
    written_votes,
)
from stepagent.data.ift import held_out_keys
from stepagent.errors import ConfigError
from stepagent.files.jsonl import write_rows
from stepagent.files.problems import ProblemFile
from stepagent.files.resumable import ResumableFile, fill
from stepagent.files.rows import load_labelled_pairs, plain_step
from stepagent.files.runs import hash_data, hash_path
from stepagent.files.texts import unusable_text
from stepagent.interfaces import Backend, Judge
from stepagent.judges.comparisons import winner
from stepagent.seeds import derive_seed
from stepagent.stages.search import SearchCounts, searched
from stepagent.types import ModelVersion, Problem, StepPair, Verdict


@dataclass(frozen=True, slots=True)
class JudgedPair:
    """The teacher's verdict on a pair, in both positions; `id` is that of the pair."""

    id: str
    verdict: Verdict


def make_eft(session: Session, settings: EftSettings, model: ModelVersion) -> dict[str, object]:
    """Make eft.jsonl, test.jsonl (filtered in the same way, of other problems), test_unfiltered.jsonl (all labelled
    pairs of those), set_aside.jsonl with the reasons, and funnel.json, which it also prints and returns, in the
    session's folder. The trees and judgements of a killed run are kept. Raises ConfigError, DataError, ModelError."""
    out, config = session.folder, session.config
    labels = session.binder.judge().judge_template()[1]
    teacher, template = _teacher(session, settings, labels)
    labelled = out / "labelled.jsonl"
    backend: Backend | None = None
    if settings.labels:
        backend = _search_and_label(session, settings, settings.labels, model=model, labelled=labelled)
    elif settings.pairs:
        write_rows(labelled, [better_first(pair) for pair in load_labelled_pairs(settings.pairs)])
    funnel = Funnel()
    ties = labels.tie is not None and settings.ties > 0
    filters = Filters(settings, config.seed, held_out_keys(session), ties)
    pairs, unfiltered = filters.screen(labelled, funnel)
    rows: list[TaughtPair] = []
    if teacher:
        judge = session.judge(teacher, model, backend)
        rows = _taught(session, teacher, judge, model=model, pairs=pairs, funnel=funnel)
    elif template:
        rows = [TaughtPair(pair, template_rows(template, labels, pair)) for pair in pairs.values()]
    return filters.write(out, rows, unfiltered, funnel=funnel)


def _teacher(session: Session, settings: EftSettings, labels: Labels) -> tuple[Bound | None, PromptTemplate | None]:
    """Return the bound teacher, or the template that stands for one. Raises ConfigError."""
    if settings.teacher is None:
        template = load_template(settings.template)
        if settings.pairs and "_value}" in template.body:
            raise ConfigError(
                "eft.pairs: labelled pairs of a file have no values for the template to name; give eft.teacher, or an "
                "eft.template without {first_value} and {second_value}"
            )
        return None, template
    kind = settings.teacher.kind
    if kind != "pairwise" and ":" not in kind:
        raise ConfigError(f"eft.teacher.kind: a teacher writes judgements, as pairwise does, not '{kind}'")
    teacher = session.binder.other_judge("eft.teacher", settings.teacher)
    if ":" in kind:
        return teacher, None  # an own class decides by itself what it writes
    teacher_labels = teacher.judge_template()[1]
    if teacher_labels != labels:
        raise ConfigError(
            f"eft.teacher.prompt: its verdict labels {' '.join(teacher_labels.all())} are not those of judge.prompt, "
            f"{' '.join(labels.all())}; the model would learn other labels than it is asked for"
        )
    return teacher, None


def _searching(config: Config, settings: EftSettings, labels: Component, *, problems: ProblemFile) -> Config:
    """Return the config of the search with M_0, whose judge labels."""
    return config.model_copy(
        update={
            "problems": ProblemSettings(path=str(problems.path)),
            "generator": settings.generator or config.generator,
            "judge": labels,
            "search": settings.search or config.search,
        }
    )


def _search_and_label(
    session: Session, settings: EftSettings, labels: Component, *, model: ModelVersion, labelled: Path
) -> Backend:
    """Search with M_0 and write the labelled pairs. Returns the backend that searched."""
    assert settings.problems is not None
    problems = ProblemFile.of(settings.problems, session.folder)
    config = _searching(session.config, settings, labels, problems=problems)
    roles = {"judge": "eft.labels"}
    searching = session.using(config, roles)
    parts = searching.parts(model)
    trees = session.folder / "trees.jsonl"

    def work() -> None:
        start = time.monotonic()
        counts = SearchCounts()
        with searched(searching, parts.strategy, problems, trees=trees, label="search for EFT pairs") as file:

            def rows() -> Iterator[StepPair | UnlabelledLevel]:
                for tree in file:
                    counts.add(tree)
                    yield from sibling_pairs(tree, config.seed)

            write_rows(labelled, rows())
        figures = counts.figures(time.monotonic() - start)
        with closing_table_only():
            table("Search for EFT pairs", figures, ("problems", "levels", "seconds"))

    session.run_folder.stage(
        "search",
        inputs={"model": Path(model.path), "problems": problems.path},
        outputs={"trees": trees, "labelled": labelled},
        identity=searching.bound.identity(),
        work=work,
    )
    return parts.backend


def _taught(
    session: Session,
    teacher: Bound,
    judge: Judge,
    *,
    model: ModelVersion,
    pairs: dict[str, StepPair],
    funnel: Funnel,
) -> list[TaughtPair]:
    """Return the pairs whose written judgements name the label in both positions, with a row for each order. Judgements
    are kept in judged_<hash>.jsonl, so that other filters ask for none twice."""
    config = session.config
    made_by: list[object] = [teacher.identity(), config.seed]
    if "backend" in teacher.open:
        made_by += [session.binder.backend().identity(), hash_path(Path(model.path))]

    async def judged(pair: StepPair) -> JudgedPair:
        prefix = [plain_step(text) for text in pair.prefix]
        candidates = [plain_step(pair.first), plain_step(pair.second)]
        seed = derive_seed(config.seed, "teacher", pair.id)
        verdict = await judge.judge(Problem(pair.id, pair.question), prefix, candidates, seed)
        return JudgedPair(pair.id, verdict)

    taught_pairs: list[TaughtPair] = []
    with ResumableFile(
        session.folder / f"judged_{hash_data(made_by)[:12]}.jsonl",
        JudgedPair,
        key=lambda row: row.id,
        failed=lambda row: any(vote.outcome == "error" for vote in row.verdict.votes),
    ) as file:
        total, concurrency = len(pairs), config.concurrency
        session.run(fill(file, pairs.items(), judged, label="judgements", total=total, concurrency=concurrency))
        for pair, row in zip(pairs.values(), file, strict=True):
            rows = _rows(pair, row.verdict)
            if isinstance(rows, str):
                funnel.remove(f"teacher: {rows}", row)
            else:
                taught_pairs.append(TaughtPair(pair, rows))
    return taught_pairs


def _rows(pair: StepPair, verdict: Verdict) -> tuple[StepPair, StepPair] | str:
    """Return the pair's EFT rows in both orders, or the reason why its judgements teach nothing."""
    votes = written_votes(verdict.votes)
    if votes is None:
        return "failed" if any(vote.outcome == "error" for vote in verdict.votes) else "no written verdict"
    if winner(votes[0]) != winner(votes[1]):
        return "the positions disagree"
    if winner(votes[0]) != (None if pair.winner == "tie" else 0):
        return "against the label"
    if flaw := unusable_text("".join(vote.reply for vote in votes)):
        return flaw
    first, second = (vote.reply.strip() for vote in votes)
    return replace(pair, judgement=first), replace(pair.swapped(), judgement=second)
