"""The types of component, and everything that a config binds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from stepagent import backends, generators, graders, judges, strategies
from stepagent.assembly.binding import Bound, bind
from stepagent.assembly.component_types import ComponentType
from stepagent.assembly.factories import Load, import_object
from stepagent.config.component import KINDS, Component
from stepagent.config.settings import Config
from stepagent.errors import ConfigError
from stepagent.interfaces import Backend, Generator, Grader, Judge, PrefixCached, SearchStrategy, StepScorer

BACKEND = ComponentType(
    "backend", Backend, "complete", builtins=backends.BUILTIN, default=KINDS["backend"], usage="it writes text"
)
SCORER = ComponentType(
    "process reward model",
    StepScorer,
    "score",
    backends.SCORERS,
    usage="it scores steps and writes none, so it stands at judge: {kind: prm, backend: ...}",
)
GENERATOR = ComponentType("generator", Generator, "propose", builtins=generators.BUILTIN, default=KINDS["generator"])
JUDGE = ComponentType("judge", Judge, "judge", builtins=judges.BUILTIN, default=KINDS["judge"], usage="it judges steps")
SEARCH = ComponentType(
    "search strategy", SearchStrategy, "search", builtins=strategies.BUILTIN, default=KINDS["search"]
)
GRADER = ComponentType(
    "grader", Grader, "grade", builtins=graders.BUILTIN, default=KINDS["grader"], usage="it checks solutions"
)
TYPES = (BACKEND, SCORER, GENERATOR, JUDGE, SEARCH, GRADER)

OFFERS: dict[str, type] = {
    "model": str,
    "backend": Backend,
    "generator": Generator,
    "judge": Judge,
    "grader": Grader,
    "answers": Mapping,
}
"""The objects that a run gives its components, by the names of the arguments that take them."""
SERVER: dict[str, type] = dict.fromkeys(("base_url", "version", "tokenizer", "ready", "api_key_env"), object)
"""The connection to the run's own server, which a backend gets if it takes an address."""


@dataclass(frozen=True, slots=True)
class Binder:
    """Binds the components of a config; `serves` says that the run has a server of its own, which backends reach.
    `roles` are other names for sections, as the user's file has them, for errors. `load` imports classes."""

    config: Config
    serves: bool = False
    roles: Mapping[str, str] = field(default_factory=dict)
    load: Load = import_object

    def backend(self) -> Bound:
        """Return the backend that generates. Importing its class may load torch."""
        return self.part("backend", self.config.backend, BACKEND)

    def generator(self) -> Bound:
        """Return the generator."""
        return self.part("generator", self.config.generator, GENERATOR)

    def judge(self) -> Bound:
        """Return the judge."""
        return self.part("judge", self.config.judge, JUDGE)

    def other_judge(self, role: str, settings: Component) -> Bound:
        """Return a judge that another section of the config describes. Without a backend it asks the config's own."""
        return self.part(role, settings, JUDGE)

    def strategy(self) -> Bound:
        """Return the search strategy."""
        return self.part("search", self.config.search, SEARCH)

    def grader(self) -> Bound:
        """Return the grader."""
        return self.part("grader", self.config.grader, GRADER)

    def search(self) -> BoundSearch:
        """Everything that a search needs; the cheap ones first, so that their faults are found first."""
        grader, strategy, generator, judge = self.grader(), self.strategy(), self.generator(), self.judge()
        return BoundSearch(self.backend(), generator, judge, strategy=strategy, grader=grader, seed=self.config.seed)

    def part(self, role: str, settings: Component, type_: ComponentType) -> Bound:
        """Return a component of any section. Without parts of its own it takes the run's."""
        role = self.roles.get(role, role)
        offers = {**OFFERS, **(SERVER if self.serves else {})} if type_ is not GRADER else {}
        return bind(role, settings, type_, types=TYPES, offers=offers, load=self.load)


@dataclass(frozen=True, slots=True)
class BoundSearch:
    """The bound components of a search, and the seed of its draws."""

    backend: Bound
    generator: Bound
    judge: Bound
    strategy: Bound
    grader: Bound
    seed: int

    def identity(self) -> list[object]:
        """Everything that decides the trees of a search beside its problems and its model."""
        parts = (self.backend, self.generator, self.judge, self.strategy)
        return [*(part.identity() for part in parts), self.seed, *self._graded(self.judge, self.strategy)]

    def judging(self) -> list[object]:
        """Everything that decides a verdict beside the candidates and the model."""
        return [self.backend.identity(), self.judge.identity(), self.seed, *self._graded(self.judge)]

    def grading(self) -> list[object]:
        """Everything that decides the mark of a solution. It is empty for the default, by which everything was marked
        before there were others, so that finished stages stay finished."""
        return [] if self.grader.kind == KINDS["grader"] else [self.grader.identity()]

    def _graded(self, *parts: Bound) -> list[object]:
        """Return `grading` if one of the parts asks the grader."""
        return self.grading() if any(part.takes("grader") for part in parts) else []

    def greedy(self) -> list[object]:
        """Everything that decides solutions without a search, and verdicts, beside the model."""
        return [*self.judging(), self.generator.identity()]

    def with_strategy(self, strategy: Bound, seed: int) -> BoundSearch:
        """Return the same components under another strategy, with its own draws."""
        return replace(self, strategy=strategy, seed=seed)


@dataclass(frozen=True, slots=True)
class Parts:
    """The components themselves, on one model."""

    backend: Backend
    generator: Generator
    judge: Judge
    strategy: SearchStrategy

    async def prefix_cache(self) -> tuple[float, float] | None:
        """Return the prefix cache's counts of the server that generates. See PrefixCached."""
        return await self.backend.prefix_cache() if isinstance(self.backend, PrefixCached) else None


def bind_strategy(kind: str, settings: Mapping[str, object]) -> Bound:
    """Return a strategy of `kind` with these settings. Raises ConfigError for one that could not be made."""
    return bind("search", Component(kind=kind, params=dict(settings)), SEARCH, types=TYPES, offers=OFFERS)


def check_in_process(config: Config) -> None:
    """Raise ConfigError if the in-process backend is tied to one model though M_1, M_2, ... answer in turn."""
    if config.backend.kind == "transformers" and "model" in config.backend.arguments():
        raise ConfigError(
            "backend.model: a run serves M_1, M_2, ... in turn, so the in-process backend takes no fixed model; write "
            "'model:' at the top of the config"
        )


def check_serving(config: Config) -> None:
    """Raise ConfigError if the sections 'serve' and 'backend' of a run contradict each other."""
    addresses, settings = config.backend.arguments().get("base_url"), config.serve
    if config.backend.kind != "openai":
        if settings is not None:
            raise ConfigError("serve: is for backend.kind: openai; write backend: {kind: openai}")
    elif settings is None or settings.command is None:
        if not addresses:
            raise ConfigError("backend.base_url: name a running server, or set serve.command to start one")
    elif addresses:
        raise ConfigError("backend.base_url: leave it out, serve.command starts a server of its own")
