"""Components out of settings: built-ins, own classes, and checks before any work."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from stepagent import (
    ConfigError,
    Problem,
)
from stepagent.assembly.binding import bind
from stepagent.assembly.components import check_components, make_components
from stepagent.assembly.session import Resources
from stepagent.backends.scripted import ScriptedBackend
from stepagent.config.settings import Component, Config
from stepagent.judges import BUILTIN as JUDGES
from stepagent.testing import step

Load = Callable[..., Config]


def make_judge(component: Component) -> object:
    return bind("judge", component, JUDGES, types={"backend": ScriptedBackend()})()


MINIMAL = "model: m\nproblems: p.jsonl\n"


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
        bind("judge", Component(kind="nowhere:Judge"), {}, types={})


def test_a_judge_may_have_a_backend_of_its_own(load: Load, tmp_path: Path) -> None:
    config = load(
        MINIMAL,
        "backend={kind: scripted, rules: [{when: '', say: [x]}]}",
        "judge.backend={kind: scripted, rules: [{when: '', say: [y]}]}",
    )
    parts = make_components(config, "m", Resources(config, tmp_path))
    assert parts.judge._backend is not parts.backend
    shared = make_components(load(MINIMAL, "backend={kind: scripted}"), "m", Resources(config, tmp_path))
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
def test_components_are_checked_before_any_work(load: Load, overrides: list[str], message: str) -> None:
    config = load(MINIMAL, *overrides)
    assert isinstance(config, Config)
    with pytest.raises(ConfigError, match=message):
        check_components(config)


PANEL = """
model: none
problems: {folder}/p.jsonl
backend: {{kind: scripted, rules: [{{when: "", say: ["[[A]]"]}}]}}
judge:
  kind: panel
  combine: majority
  judges:
    - {{kind: pairwise, comparisons: all_pairs}}
    - {{kind: pointwise, votes: 2}}
    - {{kind: random}}
    - {{kind: pairwise, backend: {{kind: scripted, rules: [{{when: "", say: ["[[B]]"]}}]}}}}
"""


def test_panels_are_configured_with_judges_of_any_kind(load: Load, tmp_path: Path) -> None:
    panel = PANEL.format(folder=tmp_path)
    config = load(panel)
    check_components(config)
    with Resources(config, tmp_path) as resources:
        judge = make_components(config, "none", resources).judge
        verdict = resources.run(judge.judge(Problem("p", "1+1?"), [], [step("good\n"), step("bad\n")], 0))
    assert verdict.status in ("ok", "no_signal")
    for override, message in (
        ("judge.judges=[{kind: pairwize}]", r"judge\.judges\.1\.judge\.kind: unknown kind 'pairwize'"),
        ("judge.judges=[7]", "item 1 must be settings"),
        ("judge={kind: pointwise, prompt: judge_pairwise}", "names its scale|placeholder {step} is missing"),
        ("judge={kind: logprob, max_tokens: 3}", "unknown key 'judge.max_tokens'"),
    ):
        with pytest.raises(ConfigError, match=message):
            check_components(load(panel, override))
