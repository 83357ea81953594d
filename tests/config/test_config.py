"""YAML and overrides: the configs that are accepted, and the sentence for those that are not."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path

import pytest

from stepagent import ConfigError
from stepagent.config.loading import load_config
from stepagent.config.settings import Config
from stepagent.generators.sample import SampleGenerator
from stepagent.strategies.step import StepSearch

Load = Callable[..., Config]

MINIMAL = "model: m\nproblems: p.jsonl\n"


def test_defaults_are_the_papers(load: Load) -> None:
    config = load(MINIMAL)
    assert (config.search.kind, config.judge.kind, config.generator.kind) == ("step", "pairwise", "sample")
    assert (config.optimize.learning_rate, config.optimize.batch_size, config.optimize.epochs) == (
        5e-7,
        32,
        1,
    )
    defaults = {
        name: parameter.default
        for part in (StepSearch, SampleGenerator)
        for name, parameter in inspect.signature(part).parameters.items()
    }
    assert (defaults["width"], defaults["max_iterations"], defaults["max_rollbacks"]) == (6, 20, 2)
    assert (defaults["temperature"], defaults["top_p"]) == (0.5, 0.95)


def test_set_overrides_nested_keys_with_yaml_values(load: Load) -> None:
    config = load(MINIMAL, "judge.backend.model=gpt-4.1", "seed=7", "optimize.lora=null", "search.width=4")
    assert config.judge.arguments() == {"backend": {"model": "gpt-4.1"}}
    assert (config.seed, config.optimize.lora, config.search.arguments()) == (7, None, {"width": 4})


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        (MINIMAL + "sede: 1\n", (), r"c\.yaml: unknown key 'sede'; did you mean 'seed'\?"),
        (MINIMAL, ("optimize.lr=1",), r"unknown key 'optimize\.lr'"),
        (MINIMAL, ("optimize.lora.rnak=4",), r"unknown key 'optimize\.lora\.rnak'; did you mean 'rank'\?"),
        (MINIMAL, ("rounds=0",), r"'rounds' input should be greater than 0"),
        (MINIMAL, ("seed",), "expected key=value"),
        ("problems: p\n", (), "'model' field required"),
        ("model: [\n", (), r"c\.yaml:\d+: not valid YAML"),
        ("- a\n", (), "expected keys"),
    ],
)
def test_bad_configs_get_one_clear_sentence(load: Load, text: str, overrides: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(text, *overrides)


def test_a_missing_config_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml: no such config file"):
        load_config(tmp_path / "none.yaml")


def test_unknown_settings_name_the_nearest(load: Load) -> None:
    with pytest.raises(ConfigError, match=r"problems"):
        load("model: m\nproblems: {path: gsm8k, splitt: test}\n")
