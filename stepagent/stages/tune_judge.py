"""Stage: a better judge section, chosen on some labelled pairs and measured on others."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from stepagent.assembly.binding import Bound
from stepagent.assembly.session import Session
from stepagent.config.component import Component
from stepagent.config.prompts import prompts_folder
from stepagent.config.yaml_text import write_yaml
from stepagent.console import output, percent, table
from stepagent.errors import ConfigError, DataError, RefusedError, collected, first_cause
from stepagent.files.jsonl import write_atomic, write_json
from stepagent.files.labelled_rows import read_labelled
from stepagent.files.runs import hash_data, hash_path
from stepagent.report.shares import paired_gain, share
from stepagent.seeds import derive_seed
from stepagent.stages.judge_variants import (
    VOTES,
    Variant,
    library,
    loaders,
    panel,
    refinements,
    rewrite,
    with_backend,
)
from stepagent.stages.measure_judge import JudgedItem, failed, judge_items, raise_failures
from stepagent.types import ModelVersion, StepPair, Usage

BUDGET = 2000
"""Comparisons, if none are said: a judge's verdict on a pair, both positions; three votes are three of them."""
_EXAMPLES = 2  # of each label, in the prompt
_FEWEST = 10  # pairs to choose by, and as many to measure on
_GLANCE = 4  # pairs that each judge sees at least, in each of the two searches
_ROWS = 12  # of the table


@dataclass(frozen=True, slots=True)
class Split:
    """The labelled pairs: `examples` to show, `tuning` to choose by, `held_out` to measure on. No problem is in two of
    them."""

    examples: list[StepPair]
    tuning: list[StepPair]
    held_out: list[StepPair]


@dataclass(frozen=True, slots=True)
class Trial:
    """The standing of a variant: `right` in both positions of the first `pairs` tuning pairs, `tokens` of prompts and
    replies a pair, `failed` verdicts, with the last error. `refusal` says why its backend cannot be asked so."""

    name: str
    pairs: int
    right: int = 0
    tokens: float = 0.0
    failed: int = 0
    error: str = ""
    refusal: str = ""

    @property
    def rank(self) -> tuple[bool, float, float]:
        """Place among others, the best first: the most right, of equal ones the cheapest."""
        return bool(self.refusal), -self.right / max(1, self.pairs), self.tokens


def split_pairs(pairs: Sequence[StepPair], seed: int, data: str) -> Split:
    """Split pairs by problem: half of them are held out. Raises DataError, with counts, for too few pairs on either
    side and for labels of one kind only."""
    labels = Counter(pair.winner for pair in pairs)
    if not labels["first"] or not labels["second"]:
        counts = ", ".join(f"{count} {label}" for label, count in labels.items())
        raise DataError(
            f"{data}: its {len(pairs)} pairs have one label only ({counts}), so nothing can be learnt from them; "
            "exchange first and second in half of the rows, their winner too"
        )
    questions = sorted({pair.question for pair in pairs})
    rng = random.Random(derive_seed(seed, "tune", "split"))
    rng.shuffle(questions)
    held_out_questions: set[str] = set()
    for question in questions:
        if 2 * sum(pair.question in held_out_questions for pair in pairs) < len(pairs):
            held_out_questions.add(question)
    held_out = [pair for pair in pairs if pair.question in held_out_questions]
    tuning = [pair for pair in pairs if pair.question not in held_out_questions]
    rng.shuffle(tuning)
    by_label = [[pair for pair in tuning if pair.winner == label][:_EXAMPLES] for label in ("first", "second")]
    examples = [pair for couple in zip(*by_label, strict=False) for pair in couple]
    example_questions = {pair.question for pair in examples}
    tuning = [pair for pair in tuning if pair.question not in example_questions]
    if min(len(tuning), len(held_out)) < _FEWEST:
        raise DataError(
            f"{data}: {len(pairs)} pairs of {len(questions)} problems are too few to choose a judge by some and to "
            f"measure it on others: without the {len(examples)} examples {len(tuning)} would be left to choose by and "
            f"{len(held_out)} are held out, and {_FEWEST} of each are the least; give 50 to 200 pairs"
        )
    return Split(examples, tuning, held_out)


def tune_judge(
    session: Session, model: ModelVersion, data: str, *, budget: int = BUDGET, sample: int | None, out: Path
) -> bool:
    """Look for a better judge section than the config's on labelled pairs (all, or `sample` of them by seed), within
    `budget` comparisons, into `out`/judge.yaml and tuning.json; continues the verdicts that `out` holds. Returns
    whether there was anything to do. Raises ConfigError, DataError or BackendError."""
    items = read_labelled(data, sample, session.config.seed)
    pairs = [item for item in items if isinstance(item, StepPair)]
    if len(pairs) < len(items):
        raise DataError(
            f"{data}: {len(items) - len(pairs)} of {len(items)} rows label single steps; a judge is tuned on labelled "
            "pairs (question, prefix, first, second, winner)"
        )
    split = split_pairs(pairs, session.config.seed, data)
    shipped = [hash_path(path) for path in sorted(prompts_folder().glob("*.md"))]
    return session.run_folder.stage(
        session.stage_name("tune judge", out),
        inputs={"model": Path(model.path), "data": Path(data)},
        outputs={"judge": out / "judge.yaml", "tuning": out / "tuning.json"},
        identity=[*session.bound.judging(), sample, budget, shipped],
        work=lambda: _Tuning(session, model, split, data=data, out=out).run(budget),
    )


class _Tuning:
    """The verdicts so far, on one backend. Those of a variant lie in a file that its settings name, so that a killed or
    a larger search goes on from them."""

    def __init__(self, session: Session, model: ModelVersion, split: Split, *, data: str, out: Path) -> None:
        self._session = session
        self._split = split
        self._data = data
        self._out = out
        self._model = model
        settings = session.config.judge.arguments()
        self._backend_settings = settings.pop("backend", None) if session.config.judge.kind in loaders() else None
        self._own = Variant("the config's own", Component(kind=session.config.judge.kind, params=settings))
        self._backend = session.judge_backend(model)
        pairs = [asdict(pair) for pair in (*split.tuning, *split.held_out)]
        self._origin = [session.bound.judging(), hash_path(Path(model.path)), pairs]
        self._spent = 0
        self._counted: Counter[Path] = Counter()

    def run(self, budget: int) -> None:
        """Choose a judge in two searches, each with half of the budget: among kinds and shipped prompts, then among the
        refinements of the best two; and measure it."""
        split, held_out = self._split, len(self._split.held_out)
        variants = self._distinct([self._own, *library(self._own.judge)])
        reserve = self._own.votes * (held_out + len(split.tuning)) + max(VOTES, self._own.votes) * held_out
        fewest = reserve + 2 * _GLANCE * len(variants)
        if budget < fewest:
            raise ConfigError(
                f"--budget {budget}: too few comparisons to try {len(variants)} judges and to measure two on the "
                f"{held_out} pairs that are held out; give {fewest} or more"
            )
        limit = budget - reserve
        first = self._halve(variants, limit // 2)
        best = [variant for variant, _ in first[:2]]
        rewritten = self._session.run(rewrite(self._backend, split.examples))
        self._spent += 1
        refined = [refinement for variant in best for refinement in refinements(variant, split.examples, rewritten)]
        second = self._halve(self._distinct([*best, *refined, panel(best)]), limit - self._spent)
        chosen, best_trial = second[0]
        own_trial = self._try(self._own, best_trial.pairs)
        if own_trial.right >= best_trial.right:  # nothing was found: a cheaper judge is no better one
            chosen = self._own
        trials = {trial.name: trial for _, trial in [*first, *second, (self._own, own_trial)]}
        self._close(chosen, sorted(trials.values(), key=lambda trial: trial.rank), budget)

    def _halve(self, variants: Sequence[Variant], limit: int) -> list[tuple[Variant, Trial]]:
        """Successive halving (arXiv 1502.07943): all variants judge a few pairs, the better half judges more, until one
        is left, within `limit` comparisons. Returns all, the best first."""
        racing, eliminated = list(variants), list[tuple[Variant, Trial]]()
        end, pairs = self._spent + limit, 0
        rounds = max(1, math.ceil(math.log2(len(variants))))
        for number in range(rounds):
            weight = sum(variant.votes for variant in racing)
            room = (end - self._spent) // weight
            pairs = min(len(self._split.tuning), pairs + min(room, max(room // (rounds - number), _GLANCE - pairs)))
            ranking = sorted(((variant, self._try(variant, pairs)) for variant in racing), key=lambda row: row[1].rank)
            trials = [trial for _, trial in ranking if not trial.refusal]
            if not trials:
                raise ConfigError(ranking[0][1].refusal)
            if all(trial.failed for trial in trials):  # not the prompt, but the model cannot be asked
                raise_failures([trial.error for trial in trials], len(trials) * pairs)
            half = math.ceil(len(ranking) / 2)
            racing, eliminated = [variant for variant, _ in ranking[:half]], [*ranking[half:], *eliminated]
        return [*ranking[:half], *eliminated]

    def _try(self, variant: Variant, pairs: int) -> Trial:
        refusal, judged = "", list[JudgedItem]()
        try:
            judged = self._verdicts(variant, self._split.tuning[:pairs], "tuning")
        except* RefusedError:
            raise
        except* ConfigError as group:  # such as an endpoint without log-probabilities
            refusal = str(first_cause(group))
        errors = [item.verdicts[-1].error for item in judged if failed(item)]
        usage = sum((verdict.usage for item in judged for verdict in item.verdicts), Usage())
        return Trial(
            variant.name,
            pairs,
            right=sum(item.right for item in judged),
            tokens=(usage.prompt_tokens + usage.completion_tokens) / max(1, pairs),
            failed=len(errors),
            error=errors[-1] if errors else "",
            refusal=refusal,
        )

    def _verdicts(self, variant: Variant, pairs: Sequence[StepPair], part: str) -> list[JudgedItem]:
        """Judge the pairs, as far as their verdicts are not on disk, and count them all."""
        bound = self._bound(variant)
        path = self._out / "verdicts" / f"{part}-{hash_data([*self._origin, bound.identity()])[:16]}.jsonl"
        self._spent += variant.votes * max(0, len(pairs) - self._counted[path])
        self._counted[path] = max(len(pairs), self._counted[path])
        judge = self._session.judge(bound, self._model, self._backend)
        return judge_items(self._session, judge, pairs, path=path, label=variant.name)

    def _bound(self, variant: Variant) -> Bound:
        return self._session.binder.other_judge("judge", variant.judge)

    def _distinct(self, variants: Sequence[Variant]) -> list[Variant]:
        """Return the variants that can be made, each once: an own prompt may have no place for criteria."""
        by_identity: dict[str, Variant] = {}
        for variant in variants:
            with collected([], ()):
                by_identity.setdefault(hash_data(self._bound(variant).identity()), variant)
        return list(by_identity.values())

    def _close(self, chosen: Variant, trials: Sequence[Trial], budget: int) -> None:
        """Measure the chosen judge and the config's own on the pairs held out, and write and print the outcome."""
        start, tuned = (self._verdicts(variant, self._split.held_out, "held_out") for variant in (self._own, chosen))
        raise_failures([item.verdicts[-1].error for item in (*start, *tuned) if failed(item)], len(start) + len(tuned))
        rights = [[item.right for item in items] for items in (start, tuned)]
        gain, low, high = paired_gain(*rights)
        shares = [share(sum(right), len(right)) for right in rights]
        gain_text = f"{100 * gain:+.1f} points ({100 * low:+.1f} to {100 * high:+.1f})"
        section = {"judge": with_backend(chosen.judge, self._backend_settings)}
        heading = (
            f"# {chosen.name}: right on {shares[1]} of {len(tuned)} held-out pairs\n# gain over the judge before it: "
        )
        write_atomic(self._out / "judge.yaml", f"{heading}{gain_text}, 95 %\n{write_yaml(section)}")
        write_json(
            self._out / "tuning.json",
            {
                "data": self._data,
                "pairs": {part: len(getattr(self._split, part)) for part in ("examples", "tuning", "held_out")},
                "budget": budget,
                "comparisons": self._spent,
                "trials": [asdict(trial) for trial in trials],
                "chosen": chosen.name,
                "held_out": dict(zip(("own", "chosen"), (sum(right) for right in rights), strict=True)),
                "gain": gain,
                "interval": [low, high],
            },
        )
        self._session.keep_config()
        rows = {trial.name: _standing(trial) for trial in trials[:_ROWS]}
        closing: dict[str, object] = {
            "chosen": chosen.name,
            "held out: the config's own": shares[0],
            "held out: chosen": shares[1],
            "gain (95 %)": gain_text,
            "comparisons": f"{self._spent:,} of {budget:,}",
        }
        table(f"Judges by tuning pairs, {len(trials)} tried", {**rows, **closing})
        output.print(f"judge section: {self._out / 'judge.yaml'}", highlight=False, markup=False, soft_wrap=True)


def _standing(trial: Trial) -> str:
    if trial.refusal:
        return "cannot be asked"
    failures = f", {trial.failed} failed" if trial.failed else ""
    return f"{percent(trial.right / max(1, trial.pairs))} of {trial.pairs}{failures}"
