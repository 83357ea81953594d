"""Stage: M_0 and problems -> EFT rows {x, s_1..s_{l-1}, s_l^1, s_l^2, judge} and two test sets for judges.

Search, labels for sibling pairs, a written judgement of each in both seats, filters, a split by problem
(arXiv 2503.03746, section 3.1, with any judge in the place of its process reward model and any teacher in
that of o1).
"""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from pydantic import TypeAdapter

from stepagent.config import Config, EftSettings, ProblemSettings
from stepagent.cutting import unusable_text
from stepagent.errors import ConfigError, DataError
from stepagent.interfaces import Judge
from stepagent.jsonl import iter_json, write_atomic, write_rows
from stepagent.judges.comparisons import winner
from stepagent.pipeline.appending import append_all, resume
from stepagent.pipeline.components import SEARCH_KEYS, Components, identity, make_components, make_judge
from stepagent.pipeline.eft_pairs import SiblingPair, agreed, is_test, sibling_pairs
from stepagent.pipeline.problems import (
    check_problems,
    held_out_keys,
    iter_problems,
    problem_file,
    question_key,
)
from stepagent.pipeline.progress import table
from stepagent.pipeline.resources import Resources
from stepagent.pipeline.rows import EftRow, judge_prompt_name, plain_step
from stepagent.pipeline.searching import SearchCounts, searched
from stepagent.prompting import Labels, PromptTemplate, load_judge_prompt, load_prompt
from stepagent.runs import RunFolder, hash_data
from stepagent.seeds import derive_seed
from stepagent.types import Problem, Verdict

_PAIR = TypeAdapter(SiblingPair)
_MORE_TIES = "more ties than asked for"


@dataclass(frozen=True, slots=True)
class UnlabelledLevel:
    """A level whose verdict labels no pair, and why."""

    problem_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class TaughtPair:
    """What the teacher said of a pair, in both seats."""

    id: str
    verdict: Verdict


@dataclass(slots=True)
class Funnel:
    """What each filter removed, in the order of the filters, and the rows themselves with the reason."""

    removed: Counter[str] = field(default_factory=Counter)
    aside: list[dict[str, object]] = field(default_factory=list)

    def remove(self, reason: str, row: object) -> None:
        self.removed[reason] += 1
        self.aside.append({"reason": reason, "row": row})


def eft_stage(config: Config, settings: EftSettings, model: str, out: Path) -> dict[str, object]:
    """Make `out`/eft.jsonl, test.jsonl (filtered in the same way, of other problems), test_unfiltered.jsonl
    (all labelled pairs of those), set_aside.jsonl with the reasons, and funnel.json, which it also prints and
    returns. What a killed run searched or was taught is kept. Raises ConfigError, DataError, ModelError."""
    judge_labels = load_judge_prompt(judge_prompt_name(config.judge))[1]
    template = None if settings.teacher else _template(settings.template)
    if settings.teacher:
        _check_teacher(settings.teacher.kind, judge_prompt_name(settings.teacher), judge_labels)
    problems = problem_file(settings.problems, out)
    count = check_problems(problems)
    searching = config.model_copy(
        update={
            "problems": ProblemSettings(path=str(problems)),
            "generator": settings.generator or config.generator,
            "judge": settings.labels,
            "search": settings.search or config.search,
        }
    )
    trees, labelled = out / "trees.jsonl", out / "labelled.jsonl"
    with Resources(config, out) as resources:
        components = make_components(searching, model, resources)
        teacher = None
        if settings.teacher:
            teacher = make_judge("eft.teacher", settings.teacher, searching, model, components)
        RunFolder(out).stage(
            "search",
            {"model": Path(model), "problems": problems},
            {"trees": trees, "labelled": labelled},
            identity(searching, *SEARCH_KEYS),
            lambda: _search(components, searching, problems, count, trees, labelled),
        )
        funnel = Funnel()
        pairs, unfiltered = _screened(config, settings, judge_labels, labelled, out, funnel)
        kept: list[tuple[SiblingPair, list[EftRow]]]
        if teacher is None:
            assert template is not None
            kept = [(pair, _by_template(template, judge_labels, pair)) for pair in pairs.values()]
        else:
            kept = _taught(config, settings, model, components, teacher, pairs, out, funnel)
    return _write(settings, config.seed, out, kept, unfiltered, funnel)


def _template(name: str) -> PromptTemplate:
    names = ("question", "prefix", "first", "second", "first_value", "second_value", "label")
    return replace(load_prompt(name, ("label",)), names=names)


def _check_teacher(kind: str, prompt: str, expected: Labels) -> None:
    if kind != "pairwise":
        raise ConfigError(f"eft.teacher.kind: a teacher writes judgements, as pairwise does, not '{kind}'")
    said = load_judge_prompt(prompt)[1]
    if said != expected:
        raise ConfigError(
            f"eft.teacher.prompt: its verdict labels {' '.join(said.all())} are not those of judge.prompt, "
            f"{' '.join(expected.all())}; the model would learn other labels than it is asked for"
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
                for _ in counts.watch([tree]):
                    pass
                for pair in sibling_pairs(tree, config.seed):
                    yield UnlabelledLevel(tree.problem.id, pair) if isinstance(pair, str) else pair

        write_rows(labelled, rows())
    table("Search for EFT pairs", counts.figures(time.monotonic() - start))


def _screened(
    config: Config, settings: EftSettings, labels: Labels, labelled: Path, out: Path, funnel: Funnel
) -> tuple[dict[str, SiblingPair], list[SiblingPair]]:
    """The pairs to be judged, by id, and the unfiltered ones of test problems."""
    held_out = held_out_keys(config, out)
    pairs: dict[str, SiblingPair] = {}
    seen: set[str] = set()
    unfiltered: list[SiblingPair] = []
    for _, row in iter_json(labelled):
        if "reason" in row:
            funnel.remove(row["reason"], row)
            continue
        pair = _PAIR.validate_python(row)
        flaw = unusable_text("".join((pair.question, *pair.prefix, pair.one, pair.other)))
        if pair.id in seen:
            reason: str | None = "the same pair again"
        elif question_key(pair.question) in held_out:
            reason = "a problem that evaluate.problems holds"
        elif pair.tie and not (labels.tie and settings.ties):
            reason = "equal, and no ties are asked for"
        elif pair.one.split() == pair.other.split():
            reason = "alike but for the end of the solution"
        else:
            reason = flaw
        seen.add(pair.id)
        if reason is None and is_test(pair.question, settings.test_share, config.seed):
            unfiltered.append(pair)
        if reason is None and not pair.tie and pair.margin < settings.min_margin:
            reason = f"margin below {settings.min_margin}"
        if reason:
            funnel.remove(reason, row)
        else:
            pairs[pair.id] = pair
    if not pairs:
        why = ", ".join(f"{count} {reason}" for reason, count in funnel.removed.most_common(3))
        raise DataError(f"{labelled}: no labelled pair to judge ({why or 'no level was judged'})")
    few = _fewer_ties(list(pairs.values()), settings.ties)
    for pair in [pair for pair in pairs.values() if pair.id not in few]:
        funnel.remove(_MORE_TIES, pair)
        del pairs[pair.id]
    return pairs, unfiltered


def _fewer_ties(pairs: Iterable[SiblingPair], share: float) -> set[str]:
    """The ids of all pairs, with only so many ties that they are `share` of them; drawn by id, which is a
    hash."""
    pairs = list(pairs)
    decisive = [pair.id for pair in pairs if not pair.tie]
    ties = sorted(pair.id for pair in pairs if pair.tie)
    return {*decisive, *ties[: int(len(decisive) * share / (1 - share))]}


def _by_template(template: PromptTemplate, labels: Labels, pair: SiblingPair) -> list[EftRow]:
    rows = []
    for swapped in (False, True):
        row = _row(pair, swapped)
        label = {"first": labels.first, "second": labels.second}.get(str(row.winner), labels.tie or "")
        values = pair.values[::-1] if swapped else pair.values
        shown = [f"{value:.2f}" if value == value else "unknown" for value in values]
        filled = template.messages(
            {**row.values(), "label": label, "first_value": shown[0], "second_value": shown[1]}
        )
        rows.append(replace(row, judgement=filled[-1].content))
    return rows


def _row(pair: SiblingPair, swapped: bool) -> EftRow:
    first, second = (pair.other, pair.one) if swapped else (pair.one, pair.other)
    return EftRow(
        pair.question,
        pair.prefix,
        first,
        second,
        winner="tie" if pair.tie else "second" if swapped else "first",
    )


def _taught(
    config: Config,
    settings: EftSettings,
    model: str,
    components: Components,
    teacher: Judge,
    pairs: dict[str, SiblingPair],
    out: Path,
    funnel: Funnel,
) -> list[tuple[SiblingPair, list[EftRow]]]:
    """The pairs whose written judgements name the label in both seats, with a row for each seat."""
    assert settings.teacher is not None
    about = config.model_copy(update={"judge": settings.teacher})
    made_by = hash_data([*identity(about, "backend", "judge", "seed"), model])[:12]
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

    components.resources.run(append_all(path, "judgements", config.concurrency, pairs, done, ask))
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
                replace(_row(pair, swapped), judgement=vote.reply.strip())
                for swapped, vote in zip((False, True), votes, strict=True)
            ]
            kept.append((pair, rows))
    return kept


def _write(
    settings: EftSettings,
    seed: int,
    out: Path,
    kept: list[tuple[SiblingPair, list[EftRow]]],
    unfiltered: list[SiblingPair],
    funnel: Funnel,
) -> dict[str, object]:
    sides: dict[bool, list[tuple[SiblingPair, list[EftRow]]]] = {True: [], False: []}
    for pair, rows in kept:
        sides[is_test(pair.question, settings.test_share, seed)].append((pair, rows))
    for side, found in sides.items():
        few = _fewer_ties([pair for pair, _ in found], settings.ties)
        for pair, rows in found:
            if pair.id not in few:
                funnel.remove(_MORE_TIES, rows[0])
        sides[side] = [(pair, rows) for pair, rows in found if pair.id in few]
    train = [row for _, rows in sides[False] for row in rows]
    random.Random(seed).shuffle(train)
    test = [replace(rows[_seat(pair)], judgement="") for pair, rows in sides[True]]
    write_rows(out / "eft.jsonl", train)
    write_rows(out / "test.jsonl", test)
    write_rows(out / "test_unfiltered.jsonl", (_row(pair, bool(_seat(pair))) for pair in unfiltered))
    write_rows(out / "set_aside.jsonl", funnel.aside)
    winners = Counter(row.winner for row in train)
    left = len(sides[False]) + len(sides[True])
    report: dict[str, object] = {
        "labels": left + funnel.removed.total(),
        **{f"  − {reason}": count for reason, count in funnel.removed.items()},
        "pairs kept": left,
        "rows to learn from, both seats": len(train),
        **{f"  winner: {who}": count for who, count in sorted(winners.items())},
        "test pairs, of other problems": len(test),
        "test pairs, unfiltered": len(unfiltered),
    }
    write_atomic(out / "funnel.json", json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    table("EFT: what became of the labels", report)
    if not train:
        raise DataError(f"{out}: no pair is left to learn from; {out / 'set_aside.jsonl'} says why")
    return report


def _seat(pair: SiblingPair) -> int:
    """Which row of a pair a test set holds: a coin thrown by its texts."""
    return int(pair.id, 16) % 2
