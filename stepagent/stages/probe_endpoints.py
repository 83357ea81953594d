"""Ask a config's endpoints what they can do, before a run pays for finding out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from stepagent.assembly.binding import Bound
from stepagent.assembly.components import BACKEND
from stepagent.assembly.session import Session
from stepagent.backends.chat import Chat
from stepagent.backends.endpoint import Endpoint
from stepagent.backends.probe import PROBE, Abilities, probe
from stepagent.backends.token_ids import TokenIds
from stepagent.console import table
from stepagent.errors import ConfigError, StepagentError
from stepagent.types import Completions, ModelVersion, Prompt, Sampling

_WAYS = {
    "ids": "continued token by token (token ids in and out)",
    "prefill": "continued as text, as a half-written last turn",
    "restate": "shown to the model again, which is asked for the next step",
}


def probe_command(session: Session, model: ModelVersion) -> None:
    """Print what each endpoint of the config can do, and what one request costs. Raises ConfigError if the config asks
    none, or the first endpoint's error after all have been asked."""
    backends = {str(bound.arguments): bound for bound in _endpoints(session)}
    if not backends:
        raise ConfigError(
            f"{session.config.name or 'this config'} asks no endpoint: its backend is of kind "
            f"{session.bound.backend.kind}; `stepagent check-model` tries a model in process"
        )
    failures: list[StepagentError] = []
    for bound in backends.values():
        urls = bound.arguments["base_url"]
        for url in [urls] if isinstance(urls, str) else urls:
            name = str(bound.arguments.get("model", model.path))
            try:
                rows = session.run(_asked(session, bound, url=url, name=name))
            except StepagentError as error:
                failures.append(error)
                rows = {"failed": str(error)}
            table(f"{bound.role}: {name} at {url}", rows)
    if failures:
        raise failures[0]


def _endpoints(session: Session) -> Iterator[Bound]:
    """Yield the bound backends that ask a server, those within the generator and the judges too."""
    bound, verify = session.bound, session.config.verify
    waiting = [bound.backend, bound.generator, bound.judge, bound.strategy]
    if verify:
        waiting.append(session.binder.other_judge("verify", verify))
    while waiting:
        part = waiting.pop(0)
        if part.type is BACKEND and "base_url" in part.arguments:
            yield part
        for member in part.parts.values():
            waiting += member if isinstance(member, tuple) else [member]


async def _asked(session: Session, bound: Bound, *, url: str, name: str) -> dict[str, object]:
    """Return what the probe and one short request with the generator's temperature and top_p find, by name."""
    arguments, generator = bound.arguments, session.bound.generator.arguments
    endpoint = Endpoint(
        url,
        name,
        arguments["api_key_env"],
        timeout=arguments["timeout"],
        extra_body=arguments["extra_body"],
        headers=arguments["headers"],
    )
    try:
        abilities = await probe(endpoint, {})
        way = TokenIds(endpoint) if abilities.way == "ids" else Chat(endpoint, abilities)
        sampling = {key: generator[key] for key in ("temperature", "top_p") if key in generator}
        reply = await way.complete(Prompt(PROBE), Sampling(max_tokens=64, **sampling))
    finally:
        await endpoint.close()
    return _rows(abilities, reply, money=session.resources.budget.price(name, reply.usage))


def _rows(abilities: Abilities, reply: Completions, *, money: float) -> dict[str, Any]:
    usage, first = reply.usage, reply.choices[0]
    takes = abilities.takes
    return {
        "a half-written solution is": _WAYS[abilities.way],
        "samples of a request": "all at once" if "n" in takes else "one by one: the prompt is paid for each",
        "seed": "taken" if "seed" in takes else "not taken: only the store of replies makes a run repeatable",
        "log-probabilities": "given" if "logprobs" in takes else "not given: no judge of kind logprob",
        **({} if abilities.way == "ids" else {"limit of sampled tokens": abilities.limit}),
        "a reply": f"{first.text[:80]!r} ({first.finish_reason})",
        "cost of that request": f"{usage.prompt_tokens} + {usage.completion_tokens} tokens"
        + (f", {money:.6f}" if money else ""),
    }
