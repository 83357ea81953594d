"""Variants of a judge section: kinds and shipped prompts, with criteria of the task, examples, and several votes.

Everything that a variant adds to a prompt's words stands in `criteria`, so that each is a section of a config.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stepagent import judges
from stepagent.assembly.factories import hints, import_object
from stepagent.config.arguments import PromptFile
from stepagent.config.component import Component
from stepagent.config.prompts import Labels, Scale, load_prompt, prompts_folder
from stepagent.errors import BackendError, Fault, collected
from stepagent.interfaces import Backend
from stepagent.types import Prompt, Sampling, StepPair

VOTES = 3  # of a variant that votes
_WARM = 0.7  # temperature of votes: at 0 they would be one vote
_WORDS = 256  # tokens of rewritten criteria
_SHARED = ("max_tokens", "temperature", "comparisons")


@dataclass(frozen=True, slots=True)
class Variant:
    """A judge section to try, without its backend; `name` is its row in the table."""

    name: str
    judge: Component

    @property
    def votes(self) -> int:
        """Comparisons that it makes of each pair."""
        settings = self.judge.arguments()
        members, votes = settings.get("judges"), settings.get("votes", 1)
        return (len(members) if isinstance(members, list) else 1) * (votes if isinstance(votes, int) else 1)

    def having(self, name: str, **arguments: object) -> Variant:
        """Return the variant with other arguments, and `name` added to its own."""
        settings = {**self.judge.arguments(), **arguments}
        return Variant(f"{self.name}, {name}", Component(kind=self.judge.kind, params=settings))


def loaders() -> dict[str, Callable[..., Any]]:
    """Return the loader of the prompts of each kind that asks in writing."""
    kinds = {}
    for kind, target in judges.BUILTIN.items():
        hint = hints(import_object("judge.kind", target)).get("prompt")
        for mark in getattr(hint, "__metadata__", ()):
            if isinstance(mark, PromptFile) and mark.takes_criteria:
                kinds[kind] = mark.load
    return kinds


def library(config_judge: Component) -> Iterator[Variant]:
    """Yield every kind with every shipped prompt that it can ask with, plain and with the config's criteria. Settings
    that the config's own judge shares with a kind are kept."""
    settings = config_judge.arguments()
    for kind, load in loaders().items():
        parameters = inspect.signature(import_object("judge.kind", judges.BUILTIN[kind])).parameters
        shared = {name: settings[name] for name in _SHARED if name in settings and name in parameters}
        for prompt in sorted(file.stem for file in prompts_folder().glob("*.md")):
            faults: list[Fault] = []
            with collected(faults, ()):
                load(prompt)
            if faults:  # a prompt of another kind
                continue
            variant = Variant(f"{kind}, {prompt}", Component(kind=kind, params={"prompt": prompt, **shared}))
            yield variant
            if settings.get("criteria"):
                yield variant.having("criteria", criteria=settings["criteria"])


def refinements(variant: Variant, examples: Sequence[StepPair], rewritten: str) -> Iterator[Variant]:
    """Yield a variant with examples in its prompt, in both orders (the last example weighs most, arXiv 2104.08786),
    with `rewritten` criteria, and with several votes; nothing for a kind that does not ask in writing."""
    kind, settings = variant.judge.kind, variant.judge.arguments()
    load = loaders().get(kind)
    if load is None:
        return
    grammar = load(settings["prompt"]) if "prompt" in settings else load(f"judge_{kind}")
    for name, order in (("examples", list(examples)), ("examples reversed", list(examples)[::-1])):
        texts = "Examples of right verdicts:\n\n" + "\n\n".join(_example(pair, grammar) for pair in order)
        yield variant.having(name, criteria=_joined(settings, texts))
    if rewritten:
        yield variant.having("rewritten criteria", criteria=_joined(settings, rewritten))
    if kind == "pointwise":
        yield variant.having(f"{VOTES} votes", votes=VOTES, temperature=_WARM)
    elif kind != "logprob":  # one that samples nothing votes the same each time
        warm = {"kind": kind, **settings, "temperature": _WARM}
        yield Variant(
            f"{variant.name}, {VOTES} votes", Component(kind="panel", params={"judges": [warm], "votes": VOTES})
        )


def panel(variants: Sequence[Variant]) -> Variant:
    """Return the panel of some variants."""
    members = [{"kind": variant.judge.kind, **variant.judge.arguments()} for variant in variants]
    return Variant("panel of the best two", Component(kind="panel", params={"judges": members}))


async def rewrite(backend: Backend, examples: Sequence[StepPair]) -> str:
    """Return the criteria that the judging model itself reads off the examples; an empty text if it writes no whole
    reply."""
    template = load_prompt("write_criteria", ("examples",))
    texts = "\n\n".join(_example(pair, (None, Labels("A", "B"))) for pair in examples)
    try:
        reply = await backend.complete(Prompt(template.messages({"examples": texts})), Sampling(max_tokens=_WORDS))
    except BackendError:
        return ""
    choice = reply.choices[0]
    return choice.text.strip() if choice.finish_reason == "end" else ""


def with_backend(judge: Component, backend: object) -> dict[str, Any]:
    """Return a judge's settings in which each judge that asks in writing has this backend."""
    settings: dict[str, Any] = {"kind": judge.kind, **judge.arguments()}
    if backend is None:
        return settings
    if judge.kind == "panel":
        members = [with_backend(Component(**member), backend) for member in settings["judges"]]
        return {**settings, "judges": members}
    return {**settings, "backend": backend} if judge.kind in loaders() else settings


def _joined(settings: Mapping[str, object], addition: str) -> str:
    criteria = settings.get("criteria")
    return f"{criteria}\n\n{addition}" if criteria else addition


def _example(pair: StepPair, grammar: object) -> str:
    """Return a labelled pair in words, with the reply that is right in a prompt's grammar: labels, a scale or ranks."""
    prefix = "".join(pair.prefix).strip()
    lines = [f"Problem: {pair.question.strip()}", *([f"So far: {prefix}"] if prefix else [])]
    first, second = pair.first.strip(), pair.second.strip()
    first_wins = pair.winner == "first"
    match grammar:
        case (_, Labels() as labels):
            verdict = labels.first if first_wins else labels.second
            lines += [f"A: {first}", f"B: {second}", f"Verdict: {verdict}"]
        case (_, Scale() as scale):
            grades = (scale.high, scale.low) if first_wins else (scale.low, scale.high)
            for step, grade in zip((first, second), grades, strict=True):
                lines += [f"Step: {step}", f"{scale.mark} {grade:g}"]
        case _:
            lines += [f"[1] {first}", f"[2] {second}", "[1] > [2]" if first_wins else "[2] > [1]"]
    return "\n".join(lines)
