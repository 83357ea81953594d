"""What decides a stage's outcome beside its input files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from stepagent.config.prompts import judge_prompt_name, load_prompt, solve_prompt
from stepagent.config.settings import KINDS, Component, Config
from stepagent.files.runs import hash_path

SEARCH_KEYS = ("backend", "generator", "judge", "search", "seed")
"""The settings that decide what a search grows."""


def identity(config: Config, *keys: str) -> list[object]:
    """What decides a stage's outcome beside its input files: the settings under `keys`, the prompts'
    text, and the judges' own models."""
    settings = config.model_dump(mode="json")
    judges = list(_judges(config.judge))
    return [
        *(_what(settings[key]) for key in keys),
        hash_path(solve_prompt(config.generator).path),
        *map(_prompt_hash, judges),
        *(weights for judge in judges for weights in _own_weights(judge)),
    ]


def _prompt_hash(judge: Component) -> str:
    return hash_path(load_prompt(judge_prompt_name(judge), ()).path)


def _own_weights(judge: Component) -> list[str]:
    """The hash of the model that a judge's own backend names, if it does."""
    nested = judge.arguments().get("backend")
    if isinstance(nested, dict) and "model" in nested:
        return [hash_path(Path(str(nested["model"])))]
    return []


def backend_identity(config: Config, model: str) -> list[object]:
    """What decides the replies of the config's backend on `model`."""
    return [_what(config.backend.model_dump(mode="json")), hash_path(Path(model))]


def judge_identity(judge: Component, config: Config, model: str) -> list[object]:
    """What decides the verdicts of a judge beside the config's own: its settings, its prompt, the weights it
    asks, the seed."""
    own = isinstance(judge.arguments().get("backend"), dict)
    asks = _own_weights(judge) if own else backend_identity(config, model)
    return [_what(judge.model_dump(mode="json")), _prompt_hash(judge), config.seed, *asks]


_HOW = ("max_in_flight", "timeout", "attempts", "requests_per_minute", "tokens_per_minute", "api_key_env")


def _what(settings: object) -> object:
    """Settings without those that say how endpoints are asked, not what: a search goes on when they change,
    and when an endpoint of several is added or taken away."""
    if isinstance(settings, list):
        return [_what(item) for item in settings]
    if not isinstance(settings, dict):
        return settings
    asked = settings.get("kind") == "openai"
    pool = asked and isinstance(settings.get("base_url"), list)
    left = [key for key in settings if not (asked and key in _HOW) and not (pool and key == "base_url")]
    return {key: _what(settings[key]) for key in left}


def _judges(judge: Component) -> Iterator[Component]:
    """A judge, and the members of its panel."""
    yield judge
    for member in judge.arguments().get("judges") or ():
        if isinstance(member, dict):
            yield from _judges(Component(**{"kind": KINDS["judge"], **member}))
