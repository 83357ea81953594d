"""The work and the highest cost of a run, read from its config alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from stepagent.assembly.binding import Bound
from stepagent.assembly.components import BACKEND, GRADER, SCORER
from stepagent.backends.budget import Budget
from stepagent.config.settings import Config, TrainSettings
from stepagent.errors import BackendError, ConfigError
from stepagent.graders.marking import MATH
from stepagent.interfaces import BoundedSearch, most_of
from stepagent.stages.check_config import CheckedConfig, priced_model
from stepagent.types import Completions, Prompt, Sampling, Usage

Most = Mapping[str, Usage]


class _Unasked:
    """Backend that has a name and is never asked, for parts that only say the most they can cost."""

    def __init__(self, model: str) -> None:
        self.model = model

    async def complete(self, prompt: Prompt, sampling: Sampling) -> Completions:
        """Raise BackendError."""
        raise BackendError(f"{self.model} is not asked while a config is checked")


def describe(checked: CheckedConfig) -> dict[str, object]:
    """Return the work of a run by name, and the most that it can ask models for. Needs a config without faults."""
    config = checked.config
    counts = _problem_counts(checked)
    rows: dict[str, object] = {
        "model": config.model,
        "backend": _backend(checked.bound["backend"], config),
        "generator": _part(checked.bound["generator"], config),
        "judge": _part(checked.bound["judge"], config),
        **({"verify": _part(checked.bound["verify"], config)} if "verify" in checked.bound else {}),
        "search": _part(checked.bound["search"], config),
        "grader": _part(checked.bound["grader"], config),
        "problems": _known(checked, "problems"),
        "rounds": config.rounds,
        "problems per round": ", ".join("all" if count is None else f"{count:,}" for count in counts),
        "init": _training(config.init) if config.init else "none: M_0 is M_1",
        "optimize": f"{config.optimize.loss}, beta {config.optimize.beta:g}, {_training(config.optimize)}",
        "watch over drift": f"{config.watch.problems:,} problems a model" if config.watch.problems else "none",
        "evaluation": _evaluation(checked) if config.evaluate else "none",
    }
    return {**rows, **_most(checked, counts)}


def _problem_counts(checked: CheckedConfig) -> list[int | None]:
    """Return the number of problems of each round; None where it is that of a data set which is not fetched."""
    config = checked.config
    if config.problems_per_round is not None:
        return list(config.problems_per_round[: config.rounds])
    return [checked.rows.get("problems") or config.problems.sample] * config.rounds


def _known(checked: CheckedConfig, role: str) -> str:
    count = checked.rows.get(role)
    source = checked.config.problems.source
    return f"{source}, not fetched yet" if count is None else f"{source}, {count:,}"


def _backend(bound: Bound, config: Config) -> str:
    if bound.kind == "transformers":
        return "transformers, in this process"
    if config.serve and config.serve.command:
        return f"{bound.kind}, a vLLM server that the run starts"
    address = bound.arguments.get("base_url")
    return f"{bound.kind}, {', '.join(address) if isinstance(address, list) else address or 'an own class'}"


def _part(bound: Bound, config: Config) -> str:
    """Return a component in a line: kind, model, prompt, whole numbers and choices."""
    words = [bound.kind]
    for part in bound.parts.values():
        members = part if isinstance(part, tuple) else (part,)
        for member in members:
            inner = priced_model(member, config) if member.type in (BACKEND, SCORER) else _part(member, config)
            words.append(f"asks {inner}" if member.type in (BACKEND, SCORER) else f"({inner})")
    words += [f"{name} {value}" for name, value in bound.arguments.items() if isinstance(value, int | str | float)]
    return ", ".join(words)


def _training(settings: TrainSettings) -> str:
    way = f"LoRA of rank {settings.lora.rank}" if settings.lora else "all weights"
    return f"{way}, epochs {settings.epochs:g}, batch {settings.batch_size}, learning rate {settings.learning_rate:g}"


def _evaluation(checked: CheckedConfig) -> str:
    evaluate = checked.config.evaluate
    assert evaluate is not None
    count = checked.rows.get("evaluate.problems")
    words = [f"{evaluate.problems.source}, {'not fetched yet' if count is None else f'{count:,} problems'}"]
    searched = evaluate.search_problems if count is None else min(count, evaluate.search_problems)
    words.append(f"{searched:,} of them searched" if searched else "none searched")
    if evaluate.pairs:
        words.append(f"{checked.rows.get('evaluate.pairs') or 'all'} labelled pairs judged")
    return ", ".join(words)


def _most(checked: CheckedConfig, counts: list[int | None]) -> dict[str, object]:
    """Return the most that each part of a run can sample, by name."""
    config, evaluate = checked.config, checked.config.evaluate
    if own_class := next((bound for bound in _inner(checked) if ":" in bound.kind and bound.type is not BACKEND), None):
        return {"at most": f"not known: {own_class.role} is a class of your own"}
    try:
        strategy, judge = _made(checked)
    except ConfigError as error:
        return {"at most": f"not known: {error}"}
    if not isinstance(strategy, BoundedSearch):
        return {"at most": "not known: the search strategy does not say"}
    searches, models = strategy.most(), config.rounds + 1
    rows = {"at most, for one problem": _bound_text(_times(searches, 1), config)}
    numbers = [count for count in counts if count is not None]
    total: list[Most] = []
    if len(numbers) == len(counts):
        total.append(_times(searches, sum(numbers)))
        rows["at most, all searches"] = _bound_text(total[-1], config)
    if config.watch.problems:
        total.append(_times(searches, config.watch.problems * models))
        rows["at most, watch"] = _bound_text(total[-1], config)
    held_out = checked.rows.get("evaluate.problems")
    if evaluate and held_out is not None:
        measured = models + (config.init is not None)
        own_model = priced_model(checked.bound["backend"], config)
        greedy = {own_model: Usage(held_out, 0, held_out * evaluate.max_tokens)}
        pairs = _times(most_of(judge, 2), checked.rows.get("evaluate.pairs") or 0)
        trees = _times(searches, min(held_out, evaluate.search_problems) * models)
        total += [_times(greedy, measured), _times(pairs, measured), trees]
        rows["at most, evaluation"] = _bound_text(_sum(total[-3:]), config)
    if len(total) > 1 and len(numbers) == len(counts):
        rows["at most, in all"] = _bound_text(_sum(total), config)
    if config.budget:
        limits = config.budget.model_dump(exclude_none=True)
        rows["budget"] = ", ".join(f"{name} {limit:,g}" for name, limit in limits.items()) or "no limit"
    return {**rows, "not counted": "prompts, which come on top"}


def _made(checked: CheckedConfig) -> tuple[Any, Any]:
    """Return the strategy and the judge, on backends that are never asked. Raises ConfigError."""
    config = checked.config

    def make(bound: Bound) -> Any:
        if bound.type is GRADER:
            return MATH  # it is asked nothing
        if bound.type in (BACKEND, SCORER):
            return _Unasked(priced_model(bound, config))
        parts = {
            name: [make(member) for member in part] if isinstance(part, tuple) else make(part)
            for name, part in bound.parts.items()
        }
        return bound.make(**{**objects, **parts})

    objects: dict[str, Any] = {"model": config.model, "answers": {}, "grader": MATH}
    for role in ("backend", "generator", "judge"):
        objects[role] = make(checked.bound[role])
    return make(checked.bound["search"]), objects["judge"]


def _inner(checked: CheckedConfig) -> Iterator[Bound]:
    """Return the components of a search, the parts of parts among them."""
    pending = [checked.bound[role] for role in ("generator", "judge", "search")]
    while pending:
        bound = pending.pop()
        yield bound
        for part in bound.parts.values():
            pending.extend(part if isinstance(part, tuple) else [part])


def _times(usages: Most, count: int) -> dict[str, Usage]:
    return {
        model: Usage(usage.requests * count, usage.prompt_tokens * count, usage.completion_tokens * count)
        for model, usage in usages.items()
    }


def _sum(usages: list[Most]) -> dict[str, Usage]:
    total: dict[str, Usage] = {}
    for part in usages:
        for model, usage in part.items():
            total[model] = total.get(model, Usage()) + usage
    return total


def _bound_text(usages: Most, config: Config) -> str:
    total = sum(usages.values(), Usage())
    budget = Budget(None, config.prices)
    cost = sum(budget.price(model, usage) for model, usage in usages.items())
    price = f", cost {cost:,.4g}" if cost else ""
    return f"{total.requests:,} requests, {total.completion_tokens:,} tokens sampled{price}"
