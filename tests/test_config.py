"""YAML, overrides, own classes: what is accepted, and the sentence for what is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from stepagent import ConfigError
from stepagent.assembly.binding import bind
from stepagent.assembly.components import check_components, make_components
from stepagent.assembly.session import Resources
from stepagent.backends.scripted import ScriptedBackend
from stepagent.config.loading import load_config
from stepagent.config.settings import Component, Config
from stepagent.judges import BUILTIN as JUDGES


def make_judge(component: Component) -> object:
    return bind("judge", component, JUDGES, {"backend": ScriptedBackend()})()


GOOD = "model: m\nproblems: p.jsonl\n"


def load(tmp_path: Path, text: str, *overrides: str) -> object:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    return load_config(path, overrides)


def test_defaults_are_the_papers(tmp_path: Path) -> None:
    config = load(tmp_path, GOOD)
    assert (config.search.kind, config.judge.kind, config.generator.kind) == ("step", "pairwise", "sample")
    assert (config.optimize.learning_rate, config.optimize.batch_size, config.optimize.epochs) == (
        5e-7,
        32,
        1,
    )
    import inspect

    from stepagent.generators.sample import SampleGenerator
    from stepagent.search.step import StepSearch

    defaults = {
        name: parameter.default
        for made in (StepSearch, SampleGenerator)
        for name, parameter in inspect.signature(made).parameters.items()
    }
    assert (defaults["width"], defaults["max_iterations"], defaults["max_rollbacks"]) == (6, 20, 2)
    assert (defaults["temperature"], defaults["top_p"]) == (0.5, 0.95)


def test_set_overrides_nested_keys_with_yaml_values(tmp_path: Path) -> None:
    config = load(
        tmp_path, GOOD, "judge.backend.model=gpt-4.1", "seed=7", "optimize.lora=null", "search.width=4"
    )
    assert config.judge.arguments() == {"backend": {"model": "gpt-4.1"}}
    assert (config.seed, config.optimize.lora, config.search.arguments()) == (7, None, {"width": 4})


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        (GOOD + "sede: 1\n", (), r"c\.yaml: unknown key 'sede'; did you mean 'seed'\?"),
        (GOOD, ("optimize.lr=1",), r"unknown key 'optimize\.lr'"),
        (GOOD, ("optimize.lora.rnak=4",), r"unknown key 'optimize\.lora\.rnak'; did you mean 'rank'\?"),
        (GOOD, ("rounds=0",), r"'rounds' input should be greater than 0"),
        (GOOD, ("seed",), "expected key=value"),
        ("problems: p\n", (), "'model' field required"),
        ("model: [\n", (), r"c\.yaml:\d+: not valid YAML"),
        ("- a\n", (), "expected keys"),
    ],
)
def test_bad_configs_get_one_clear_sentence(
    tmp_path: Path, text: str, overrides: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        load(tmp_path, text, *overrides)


def test_a_missing_config_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml: no such config file"):
        load_config(tmp_path / "none.yaml")


OWN_JUDGE = '''
from stepagent import Verdict

class Shortest:
    """Prefers the shortest step."""
    def __init__(self, backend, bonus: float = 0.0) -> None:
        self.bonus = bonus
    async def judge(self, problem, prefix, candidates, seed):
        scores = tuple(self.bonus - len(step.content) for step in candidates)
        return Verdict("ok", scores, scores.index(max(scores)), scores.index(min(scores)), 0.9)
'''


def test_a_judge_of_ones_own_costs_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_judges.py").write_text(OWN_JUDGE)
    monkeypatch.chdir(tmp_path)
    judge = make_judge(Component(kind="my_judges:Shortest", params={"bonus": 2}))
    assert judge.bonus == 2.0
    with pytest.raises(ConfigError, match=r"unknown key 'judge\.bonsu'; did you mean 'bonus'\?"):
        make_judge(Component(kind="my_judges:Shortest", bonsu=2))
    with pytest.raises(ConfigError, match=r"judge: 'bonus' input should be a valid number"):
        make_judge(Component(kind="my_judges:Shortest", bonus="much"))


def test_unknown_kinds_name_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"judge\.kind: unknown kind 'pairwize'; did you mean 'pairwise'\?"):
        make_judge(Component(kind="pairwize"))
    with pytest.raises(ConfigError, match=r"judge\.kind: cannot import 'nowhere:Judge'"):
        bind("judge", Component(kind="nowhere:Judge"), {}, {})


def test_a_judge_may_have_a_backend_of_its_own(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        GOOD,
        "backend={kind: scripted, rules: [{when: '', say: [x]}]}",
        "judge.backend={kind: scripted, rules: [{when: '', say: [y]}]}",
    )
    parts = make_components(config, "m", Resources(config, tmp_path))
    assert parts.judge._backend is not parts.backend
    shared = make_components(
        load(tmp_path, GOOD, "backend={kind: scripted}"), "m", Resources(config, tmp_path)
    )
    assert shared.judge._backend is shared.backend


ODD_JUDGES = """
from __future__ import annotations
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    from somewhere import Backend

class Own: ...

class Hinted:
    def __init__(self, backend: Backend, depth: int = 1) -> None:
        self.depth = depth

class Open:
    def __init__(self, backend, helper: Own | None = None, **options) -> None:
        self.options = options
"""


def test_ordinary_classes_of_ones_own_are_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "odd_judges.py").write_text(ODD_JUDGES)
    monkeypatch.chdir(tmp_path)
    assert make_judge(Component(kind="odd_judges:Hinted", depth=3)).depth == 3
    assert make_judge(Component(kind="odd_judges:Open", anything=[1])).options == {"anything": [1]}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["search.width=0"], r"search: 'width' input should be greater than 0"),
        (["generator.temperature=-1"], r"generator: 'temperature'"),
        (["generator.boundary=word"], r"generator: 'boundary'"),
        (
            ["judge.backend.kind=transfomers"],
            r"judge\.backend\.kind: unknown kind.*did you mean 'transformers'",
        ),
        (["generator={backend: 3}"], r"generator\.backend: expected settings"),
        (["judge.prompt=solve"], r"the placeholder \{prefix\} is missing"),
    ],
)
def test_components_are_checked_before_any_work(tmp_path: Path, overrides: list[str], message: str) -> None:
    config = load(tmp_path, GOOD, *overrides)
    assert isinstance(config, Config)
    with pytest.raises(ConfigError, match=message):
        check_components(config)
