"""Stage: M_0 and problems -> EFT rows {x, s_1..s_{l-1}, s_l^1, s_l^2, judge} and two test sets for judges.

Search, labels for sibling pairs, a written judgement of each in both seats, filters, a split by problem
(arXiv 2503.03746, section 3.1, with any judge in the place of its process reward model and any teacher in
that of o1).
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from stepagent.assembly.components import Components, make_components, make_judge
from stepagent.assembly.identity import SEARCH_KEYS, identity, judge_identity
from stepagent.assembly.session import Resources
from stepagent.config.prompts import Labels, judge_prompt_name, load_judge_prompt
from stepagent.config.settings import Component, Config, EftSettings, ProblemSettings
from stepagent.console import table
from stepagent.data.eft_filters import Funnel, Kept, screened, write_eft
from stepagent.data.eft_pairs import (
    SiblingPair,
    UnlabelledLevel,
    agreed,
    given_pair,
    load_template,
    seat_row,
    sibling_pairs,
    template_rows,
)
from stepagent.errors import ConfigError
from stepagent.files.jsonl import write_rows
from stepagent.files.problems import check_problems, iter_problems, problem_file
from stepagent.files.resumable import append_all, resume
from stepagent.files.rows import load_pairs, plain_step
from stepagent.files.runs import RunFolder, hash_data
from stepagent.files.texts import unusable_text
from stepagent.interfaces import Judge
from stepagent.judges.comparisons import winner
from stepagent.seeds import derive_seed
from stepagent.stages.search import SearchCounts, searched
from stepagent.types import Problem, Verdict


@dataclass(frozen=True, slots=True)
class TaughtPair:
    """What the teacher said of a pair, in both seats."""

    id: str
    verdict: Verdict


def eft_stage(config: Config, settings: EftSettings, model: str, out: Path) -> dict[str, object]:
    """Make `out`/eft.jsonl, test.jsonl (filtered in the same way, of other problems), test_unfiltered.jsonl
    (all labelled pairs of those), set_aside.jsonl with the reasons, and funnel.json, which it also prints and
    returns. What a killed run searched or was taught is kept. Raises ConfigError, DataError, ModelError."""
    judge_labels = load_judge_prompt(judge_prompt_name(config.judge))[1]
    template = None if settings.teacher else load_template(settings.template)
    if settings.teacher:
        _check_teacher(settings.teacher.kind, judge_prompt_name(settings.teacher), judge_labels)
    if template and settings.pairs and "_value}" in template.body:
        raise ConfigError(
            "eft.pairs: labelled pairs of a file have no values for the template to name; give eft.teacher, "
            "or "
            "an eft.template without {first_value} and {second_value}"
        )
    labelled = out / "labelled.jsonl"
    with Resources(config, out) as resources:
        searching, components = config, None
        if settings.labels:
            searching = _searching(config, settings, settings.labels, out)
            try:
                components = make_components(searching, model, resources)
            except ConfigError as error:  # its judge is eft.labels
                raise ConfigError(re.sub(r"^judge\b", "eft.labels", str(error))) from None
        teacher = None
        if settings.teacher:
            backend = components.backend if components else None
            teacher = make_judge("eft.teacher", settings.teacher, config, model, resources, backend)
        if components:
            _searched(components, searching, model, out, labelled)
        elif settings.pairs:
            write_rows(labelled, [given_pair(row) for row in load_pairs(settings.pairs)])
        funnel = Funnel()
        pairs, unfiltered = screened(config, settings, judge_labels, labelled, out, funnel)
        kept: Kept
        if teacher is None:
            assert template is not None
            kept = [(pair, template_rows(template, judge_labels, pair)) for pair in pairs.values()]
        else:
            kept = _taught(config, settings, model, resources, teacher, pairs, out, funnel)
    return write_eft(settings, config.seed, out, kept, unfiltered, funnel)


def _check_teacher(kind: str, prompt: str, expected: Labels) -> None:
    if ":" in kind:
        return  # one's own class knows what it writes
    if kind != "pairwise":
        raise ConfigError(f"eft.teacher.kind: a teacher writes judgements, as pairwise does, not '{kind}'")
    said = load_judge_prompt(prompt)[1]
    if said != expected:
        raise ConfigError(
            f"eft.teacher.prompt: its verdict labels {' '.join(said.all())} are not those of judge.prompt, "
            f"{' '.join(expected.all())}; the model would learn other labels than it is asked for"
        )


def _searching(config: Config, settings: EftSettings, labels: Component, out: Path) -> Config:
    """The config of the search with M_0, whose judge labels."""
    assert settings.problems is not None
    return config.model_copy(
        update={
            "problems": ProblemSettings(path=str(problem_file(settings.problems, out))),
            "generator": settings.generator or config.generator,
            "judge": labels,
            "search": settings.search or config.search,
        }
    )


def _searched(components: Components, config: Config, model: str, out: Path, labelled: Path) -> None:
    problems, trees = Path(config.problems.path), out / "trees.jsonl"
    count = check_problems(problems)
    RunFolder(out).stage(
        "search",
        {"model": Path(model), "problems": problems},
        {"trees": trees, "labelled": labelled},
        identity(config, *SEARCH_KEYS),
        lambda: _search(components, config, problems, count, trees, labelled),
    )


def _search(
    components: Components, config: Config, problems: Path, count: int, trees: Path, labelled: Path
) -> None:
    start = time.monotonic()
    counts = SearchCounts()
    source: Iterable[Problem] = iter_problems(problems)
    with searched(
        components, components.strategy, source, count, trees, config, 0, "search for EFT pairs"
    ) as found:

        def rows() -> Iterator[SiblingPair | UnlabelledLevel]:
            for tree in found:
                counts.add(tree)
                for pair in sibling_pairs(tree, config.seed):
                    yield UnlabelledLevel(tree.problem.id, pair) if isinstance(pair, str) else pair

        write_rows(labelled, rows())
    table("Search for EFT pairs", counts.figures(time.monotonic() - start))


def _taught(
    config: Config,
    settings: EftSettings,
    model: str,
    resources: Resources,
    teacher: Judge,
    pairs: dict[str, SiblingPair],
    out: Path,
    funnel: Funnel,
) -> Kept:
    """The pairs whose written judgements name the label in both seats, with a row for each seat."""
    assert settings.teacher is not None
    made_by = hash_data(judge_identity(settings.teacher, config, model))[:12]
    path = out / f"judged_{made_by}.jsonl"
    done = resume(
        path,
        TaughtPair,
        lambda row: row.id,
        lambda row: any(vote.outcome == "error" for vote in row.verdict.votes),
    )

    async def ask(name: str, pair: SiblingPair) -> TaughtPair:
        prefix = [plain_step(text) for text in pair.prefix]
        candidates = [plain_step(pair.one), plain_step(pair.other)]
        seed = derive_seed(config.seed, "teacher", name)
        return TaughtPair(name, await teacher.judge(Problem(name, pair.question), prefix, candidates, seed))

    resources.run(append_all(path, "judgements", config.concurrency, pairs, done, ask))
    kept = []
    for name, pair in pairs.items():
        verdict = done[name].verdict
        votes = agreed(verdict.votes)
        if votes is None:
            failed = any(vote.outcome == "error" for vote in verdict.votes)
            funnel.remove("teacher: failed" if failed else "teacher: no written verdict", done[name])
        elif winner(votes[0]) != winner(votes[1]):
            funnel.remove("teacher: the seats disagree", done[name])
        elif winner(votes[0]) != (None if pair.tie else 0):
            funnel.remove("teacher: against the label", done[name])
        elif flaw := unusable_text("".join(vote.reply for vote in votes)):
            funnel.remove(f"teacher: {flaw}", done[name])
        else:
            rows = [
                replace(seat_row(pair, swapped), judgement=vote.reply.strip())
                for swapped, vote in zip((False, True), votes, strict=True)
            ]
            kept.append((pair, rows))
    return kept
