"""Time, tokens and money of a run, by stage, by round and by model."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Sequence
from dataclasses import astuple, dataclass, field, replace
from pathlib import Path

from stepagent.report.folder import ReportFolder, TreeFile, stages_of
from stepagent.report.reading import typed_rows
from stepagent.report.shapes import ConfigFacts, JudgedItem, ModelPrice, TaughtItem
from stepagent.report.tree_facts import TreeCounts
from stepagent.types import Usage

BEFORE = "before round 1"


@dataclass(frozen=True, slots=True)
class Cost:
    """The cost of one row: seconds (None where no manifest has them), tokens, money (None without a price)."""

    name: str
    seconds: float | None
    usage: Usage
    money: float | None = None


@dataclass(frozen=True, slots=True)
class Costs:
    """Three ways to cut the same cost. `stages` and `rounds` add up to `total`; so do `models` where all are asked in
    process. Where endpoints are asked, `models` are the replies that the response store holds: a reply that served two
    stages is there once. A stage's money is that of the tokens of its generator and of its judge, each at its
    model's price."""

    stages: list[Cost]
    rounds: list[Cost]
    models: list[Cost]
    total: Cost = field(default=Cost("total", None, Usage()))


def run_costs(folder: ReportFolder, files: Sequence[TreeFile], counts: Sequence[TreeCounts]) -> Costs:
    """Return the costs of a folder; `counts` are those of its files of trees."""
    usage: dict[str, Usage] = {}
    judged: dict[str, Usage] = {}
    for file, count in zip(files, counts, strict=True):
        usage[file.stage] = usage.get(file.stage, Usage()) + count.usage
        judged[file.stage] = judged.get(file.stage, Usage()) + count.judged_usage
    for stage, path in _verdict_files(folder):
        verdicts = _verdict_usage(folder, path)
        usage[stage] = usage.get(stage, Usage()) + verdicts
        judged[stage] = judged.get(stage, Usage()) + verdicts
    seconds = {name: entry.seconds for name, entry in folder.manifest().items()}
    if (eft := folder.eft()) and eft != folder.path:
        seconds |= {f"data/eft: {name}": entry.seconds for name, entry in stages_of(eft, folder.gaps).items()}
    names = [*seconds, *(name for name in usage if name not in seconds)]
    models = _by_model(folder)
    stages = [
        Cost(name, seconds.get(name), whole, _money(folder.config, whole, judged.get(name, Usage()), models))
        for name in names
        for whole in [usage.get(name, Usage())]
    ]
    by_round: dict[str, list[Cost]] = {}
    for cost in stages:
        by_round.setdefault(_round_of(cost.name), []).append(cost)
    rounds = [_sum(name, by_round[name]) for name in sorted(by_round, key=lambda name: (name != BEFORE, name))]
    return Costs(stages, rounds, models or _by_searching_model(stages), _sum("total", stages))


def _sum(name: str, costs: Sequence[Cost]) -> Cost:
    seconds = [cost.seconds for cost in costs if cost.seconds is not None]
    money = [cost.money for cost in costs if cost.money is not None]
    usage = sum((cost.usage for cost in costs), Usage())
    return Cost(name, sum(seconds) if seconds else None, usage, sum(money) if money else None)


def _round_of(stage: str) -> str:
    """Return the round that a stage belongs to: a round ends with the measuring of the model that it made."""
    if match := re.match(r"round_(\d+)", stage):
        return f"round {match[1]}"
    match = re.search(r"M_(\d+)", stage)
    return f"round {int(match[1]) - 1}" if match and int(match[1]) > 1 else BEFORE


def _verdict_files(folder: ReportFolder) -> list[tuple[str, Path]]:
    """Return the files of verdicts that belong to no tree, each with the stage that wrote it."""
    places = [("judge quality", folder.path / "items.jsonl")]
    for _, path in folder.evaluations():
        stage = "evaluate" if path == folder.path else f"{path.relative_to(folder.path).as_posix()}: evaluate"
        places.append((stage, path / "pairs.jsonl"))
    places += [(f"{path.name}: verify", path / "judged_pairs.jsonl") for path in folder.rounds()]
    if eft := folder.eft():
        places += [("data/eft: judgements", path) for path in sorted(eft.glob("judged_*.jsonl"))]
    return [(stage, path) for stage, path in places if path.is_file()]


def _verdict_usage(folder: ReportFolder, path: Path) -> Usage:
    if path.name.startswith("judged_"):
        verdicts = [row.verdict for row in typed_rows(path, TaughtItem, folder.gaps)]
    else:
        verdicts = [verdict for row in typed_rows(path, JudgedItem, folder.gaps) for verdict in row.verdicts]
    return sum((Usage(*astuple(verdict.usage)) for verdict in verdicts), Usage())


def _by_model(folder: ReportFolder) -> list[Cost]:
    """Return the cost of the stored replies of each model, with its price if the config has one."""
    path = folder.path / "responses.sqlite"
    if not path.is_file():
        return []
    query = "SELECT model, SUM(requests), SUM(prompt_tokens), SUM(completion_tokens) FROM responses GROUP BY model"
    try:
        store = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
        try:
            rows = store.execute(query).fetchall()
        finally:
            store.close()
    except sqlite3.Error:
        folder.gaps.add(path, "not readable as a response store; the cost by model is left out")
        return []
    costs = [Cost(str(model), None, Usage(*(int(part or 0) for part in numbers))) for model, *numbers in rows]
    return [_priced(cost, folder.config.prices.get(cost.name)) for cost in costs]


def _by_searching_model(stages: Sequence[Cost]) -> list[Cost]:
    """Return the tokens by the model of the stage, for models that are asked in process."""
    by_model: dict[str, list[Cost]] = {}
    for cost in stages:
        if cost.usage.requests:
            match = re.search(r"(?:M|round)_(\d+)", cost.name)
            by_model.setdefault(f"M_{match[1]}" if match else "the model that made the data", []).append(cost)
    return [Cost(name, None, _sum(name, costs).usage) for name, costs in sorted(by_model.items())]


def _money(config: ConfigFacts, whole: Usage, judged: Usage, models: Sequence[Cost]) -> float | None:
    """Return the money for `whole` tokens, of which the judge took `judged`; None if a price that it takes is not in
    the config."""
    only = models[0].name if len(models) == 1 else ""
    generated = Usage(*(total - part for total, part in zip(astuple(whole), astuple(judged), strict=True)))
    money = 0.0
    for part, tokens in ((config.generator, generated), (config.judge, judged)):
        backend = part.backend or config.backend
        price = config.prices.get(backend.model or only)
        if tokens == Usage():
            continue
        if price is None:
            return None
        money += _price(tokens, price)
    return money if whole != Usage() else None


def _priced(cost: Cost, price: ModelPrice | None) -> Cost:
    return cost if price is None else replace(cost, money=_price(cost.usage, price))


def _price(usage: Usage, price: ModelPrice) -> float:
    return (usage.prompt_tokens * price.prompt + usage.completion_tokens * price.completion) / 1e6
