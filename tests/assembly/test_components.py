"""Components out of settings: built-ins, own classes, and checks before any work."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path

import pytest

from stepagent import Backend, ConfigError, Problem
from stepagent.assembly.binding import bind
from stepagent.assembly.components import JUDGE, TYPES, Binder, Parts
from stepagent.assembly.session import Session
from stepagent.backends.scripted import ScriptedBackend
from stepagent.config.component import Component
from stepagent.config.settings import Config
from stepagent.testing import step
from stepagent.types import ModelVersion

Load = Callable[..., Config]


def make_judge(component: Component) -> object:
    bound = bind("judge", component, JUDGE, types=TYPES, offers={"backend": Backend})
    return bound.make(backend=ScriptedBackend())


def make_parts(config: Config, folder: Path) -> Parts:
    with Session(config, folder) as session:
        return session.parts(ModelVersion.at("m"))


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
        make_judge(Component(kind="nowhere:Judge"))


def test_a_judge_may_have_a_backend_of_its_own(load: Load, tmp_path: Path) -> None:
    config = load(
        MINIMAL,
        "backend={kind: scripted, rules: [{pattern: '', say: [x]}]}",
        "judge.backend={kind: scripted, rules: [{pattern: '', say: [y]}]}",
    )
    parts = make_parts(config, tmp_path)
    assert parts.judge._backend is not parts.backend
    shared = make_parts(load(MINIMAL, "backend={kind: scripted}"), tmp_path)
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
    async def judge(self, problem, prefix, candidates, seed): ...

class Prompted:
    def __init__(self, backend, prompt: str = "judge_pairwise") -> None:
        self.prompt = prompt
    async def judge(self, problem, prefix, candidates, seed): ...

class Open:
    def __init__(self, backend, helper: Own | None = None, **options) -> None:
        self.options = options
    async def judge(self, problem, prefix, candidates, seed): ...
"""


def test_ordinary_classes_of_ones_own_are_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "odd_judges.py").write_text(ODD_JUDGES)
    monkeypatch.chdir(tmp_path)
    assert make_judge(Component(kind="odd_judges:Hinted", depth=3)).depth == 3
    assert make_judge(Component(kind="odd_judges:Open", anything=[1])).options == {"anything": [1]}
    text = "Which step is better? " * 20
    assert make_judge(Component(kind="odd_judges:Prompted", prompt=text)).prompt == text


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
        (["generator={backend: 3}"], r"generator\.backend must be settings"),
        (["judge.prompt=solve"], r"the placeholder \{prefix\} is missing"),
        ([f"judge.prompt={'Which step is better? ' * 20}"], r"no prompt 'Which step is better"),
    ],
)
def test_components_are_checked_before_any_work(load: Load, overrides: list[str], message: str) -> None:
    config = load(MINIMAL, *overrides)
    assert isinstance(config, Config)
    with pytest.raises(ConfigError, match=message):
        Binder(config).search()


PANEL = """
model: none
problems: {folder}/p.jsonl
backend: {{kind: scripted, rules: [{{pattern: "", say: ["[[A]]"]}}]}}
judge:
  kind: panel
  combine: majority
  judges:
    - {{kind: pairwise, comparisons: all_pairs}}
    - {{kind: pointwise, votes: 2}}
    - {{kind: random}}
    - {{kind: pairwise, backend: {{kind: scripted, rules: [{{pattern: "", say: ["[[B]]"]}}]}}}}
"""


def test_panels_are_configured_with_judges_of_any_kind(load: Load, tmp_path: Path) -> None:
    panel = PANEL.format(folder=tmp_path)
    config = load(panel)
    Binder(config).search()
    with Session(config, tmp_path) as session:
        judge = session.parts(ModelVersion.at("none")).judge
        verdict = session.run(judge.judge(Problem("p", "1+1?"), [], [step("good\n"), step("bad\n")], 0))
    assert verdict.status in ("ok", "no_signal")
    for override, message in (
        ("judge.judges=[{kind: pairwize}]", r"judge\.judges\.1\.kind: unknown kind 'pairwize'"),
        ("judge.judges=[7]", "item 1 must be settings"),
        ("judge={kind: pointwise, prompt: judge_pairwise}", "names its scale|placeholder {step} is missing"),
        ("judge={kind: logprob, max_tokens: 3}", "unknown key 'judge.max_tokens'"),
    ):
        with pytest.raises(ConfigError, match=message):
            Binder(load(panel, override)).search()


COUNTED_BACKEND = """
INSTANCES = []

class Counted:
    def __init__(self, rate: float = 1.0) -> None:
        INSTANCES.append(self)
    async def complete(self, prompt, sampling): ...
"""


def test_faults_are_found_before_a_backend_is_made(load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "counted_backend.py").write_text(COUNTED_BACKEND)
    (tmp_path / "prompt.md").write_text("---\nlabels: {first: A, second: AB}\n---\n{question}{prefix}{first}{second}")
    monkeypatch.syspath_prepend(tmp_path)
    text = f"{MINIMAL}backend: {{kind: 'counted_backend:Counted'}}\n"
    own_backend = "backend: {kind: 'counted_backend:Counted'}"
    for override, message in (
        ("search.widht=4", r"unknown key 'search\.widht'; did you mean 'width'\?"),
        (f"judge.prompt={tmp_path}/prompt.md", r"prompt\.md: one verdict label contains another"),
        (f"judge={{prompt: nowhere.md, {own_backend}}}", r"no prompt 'nowhere\.md'"),
        (
            f"judge={{kind: panel, judges: [{{{own_backend}}}, {{kind: radnom}}]}}",
            r"judge\.judges\.2\.kind: .*'random'",
        ),
        ("backend.rate=much", "backend: 'rate' input should be a valid number"),
    ):
        with (
            Session(load(text, override), tmp_path / "run") as session,
            pytest.raises(ConfigError, match=message),
        ):
            session.bound  # noqa: B018 (binding checks)
    counted_backend = importlib.import_module("counted_backend")
    assert counted_backend.INSTANCES == []
    assert not (tmp_path / "run").exists()
    with Session(load(text), tmp_path / "run") as session:
        assert session.bound.backend.arguments == {"rate": 1.0}
        assert counted_backend.INSTANCES == []
        session.parts(ModelVersion.at("m"))
    assert len(counted_backend.INSTANCES) == 1


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "backend={kind: prm_tags}",
            r"backend\.kind: 'prm_tags' is no backend but a process reward model; .* it stands at "
            r"judge: \{kind: prm, backend: \.\.\.\}",
        ),
        (
            "judge={kind: prm}",
            r"judge\.backend: name the process reward model, such as \{kind: prm_classifier, \.\.\.\}",
        ),
    ],
)
def test_where_a_process_reward_model_belongs(load: Load, tmp_path: Path, override: str, message: str) -> None:
    with Session(load(MINIMAL, override), tmp_path) as session, pytest.raises(ConfigError, match=message):
        session.bound  # noqa: B018 (binding checks)
