"""The types of component, and everything that a config binds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from stepagent import backends, generators, judges, strategies
from stepagent.assembly.binding import Bound, ComponentType, bind
from stepagent.config.component import KINDS, Component
from stepagent.config.settings import Config
from stepagent.errors import ConfigError
from stepagent.interfaces import Backend, Generator, Judge, PrefixCached, SearchStrategy, StepScorer

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
TYPES = (BACKEND, SCORER, GENERATOR, JUDGE, SEARCH)

_OFFERS: dict[str, type] = {
    "model": str,
    "backend": Backend,
    "generator": Generator,
    "judge": Judge,
    "answers": Mapping,
}
_SERVER: dict[str, type] = dict.fromkeys(("base_url", "version", "tokenizer", "ready", "api_key_env"), object)
"""The connection to the run's own server, which a backend gets if it takes an address."""


@dataclass(frozen=True, slots=True)
class Binder:
    """Binds the components of a config; `serves` says that the run has a server of its own, which backends reach.
    `roles` are other names for sections, as the user's file has them, for errors."""

    config: Config
    serves: bool = False
    roles: Mapping[str, str] = field(default_factory=dict)

    def backend(self) -> Bound:
        """Return the backend that generates. Importing its class may load torch."""
        return self._bind("backend", self.config.backend, BACKEND)

    def generator(self) -> Bound:
        """Return the generator."""
        return self._bind("generator", self.config.generator, GENERATOR)

    def judge(self) -> Bound:
        """Return the judge."""
        return self._bind("judge", self.config.judge, JUDGE)

    def other_judge(self, role: str, settings: Component) -> Bound:
        """Return a judge that another section of the config describes. Without a backend it asks the config's own."""
        return self._bind(role, settings, JUDGE)

    def strategy(self) -> Bound:
        """Return the search strategy."""
        return self._bind("search", self.config.search, SEARCH)

    def search(self) -> BoundSearch:
        """Everything that a search needs; the cheap ones first, so that their faults are found first."""
        strategy, generator, judge = self.strategy(), self.generator(), self.judge()
        return BoundSearch(self.backend(), generator, judge, strategy=strategy, seed=self.config.seed)

    def _bind(self, role: str, settings: Component, type_: ComponentType) -> Bound:
        role = self.roles.get(role, role)
        return bind(role, settings, type_, types=TYPES, offers={**_OFFERS, **(_SERVER if self.serves else {})})


@dataclass(frozen=True, slots=True)
class BoundSearch:
    """The bound components of a search, and the seed of its draws."""

    backend: Bound
    generator: Bound
    judge: Bound
    strategy: Bound
    seed: int

    def identity(self) -> list[object]:
        """Everything that decides the trees of a search beside its problems and its model."""
        parts = (self.backend, self.generator, self.judge, self.strategy)
        return [*(part.identity() for part in parts), self.seed]

    def judging(self) -> list[object]:
        """Everything that decides a verdict beside the candidates and the model."""
        return [self.backend.identity(), self.judge.identity(), self.seed]

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
    return bind("search", Component(kind=kind, params=dict(settings)), SEARCH, types=TYPES, offers=_OFFERS)


def check_in_process(config: Config) -> None:
    """Raise ConfigError if the in-process backend is tied to one model though M_1, M_2, ... answer in turn."""
    if config.backend.kind == "transformers" and "model" in config.backend.arguments():
        raise ConfigError(
            "backend.model: a run serves M_1, M_2, ... in turn, so the in-process backend takes no fixed model; write "
            "'model:' at the top of the config"
        )
