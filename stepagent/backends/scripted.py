"""A backend with scripted replies, for tests, docs and dry runs. No network, no model, no torch."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from stepagent.backends.thoughts import stops_of
from stepagent.errors import BackendError
from stepagent.seeds import derive_seed
from stepagent.types import Completion, Completions, FinishReason, Message, Prompt, Sampling, Usage

END_ID = 256
Reply = Callable[[str, int], str]
"""(the whole context as text, seed of this sample) -> the model's reply, to its end of turn."""


@dataclass(frozen=True, slots=True)
class Rule:
    """Rule: where the regular expression `pattern` is found in the context, reply one of `say`, by seed."""

    pattern: str
    say: tuple[str, ...]


class ScriptedBackend:
    """Backend that replies by rules or by a function. Token ids are UTF-8 bytes; END_ID ends a turn.

    A reply that holds a stop string is cut after it, as a server would; one longer than `max_tokens`
    bytes ends with "length". `prompts` lists all prompts so far.
    """

    def __init__(self, rules: Sequence[Rule] = (), reply: Reply | None = None) -> None:
        self._rules = rules
        self._reply = reply or self._by_rule
        self.prompts: list[Prompt] = []

    async def complete(self, prompt: Prompt, sampling: Sampling) -> Completions:
        """See Backend. Raises BackendError for a context that no rule matches."""
        self.prompts.append(prompt)
        context = render(prompt.messages) + prompt.prefix_text
        way = replace(sampling, stop=stops_of(prompt, sampling))
        choices = tuple(
            _cut(self._reply(context, derive_seed(sampling.seed, context, index)), way) for index in range(sampling.n)
        )
        ids = tuple(context.encode())
        sampled = sum(len(choice.token_ids or ()) for choice in choices)
        return Completions(choices, context, ids, usage=Usage(1, len(ids), sampled), tokenizer_sha256="scripted-bytes")

    def _by_rule(self, context: str, seed: int) -> str:
        for rule in self._rules:
            if re.search(rule.pattern, context):
                return random.Random(seed).choice(rule.say)
        raise BackendError(f"no scripted reply matches the context ending in {context[-40:]!r}")


def render(messages: Sequence[Message]) -> str:
    """Return chat turns in the scripted chat template, up to the opening of the reply."""
    turns = "".join(f"<{message.role}>{message.content}" for message in messages)
    return turns + "<assistant>"


def _cut(reply: str, sampling: Sampling) -> Completion:
    ends = [reply.find(stop) + len(stop) for stop in sampling.stop if stop in reply]
    reason: FinishReason = "stop" if ends else "end"
    text = reply[: min(ends)] if ends else reply
    ids = (*text.encode(), END_ID) if reason == "end" else tuple(text.encode())
    if len(ids) > sampling.max_tokens:
        reason, ids = "length", ids[: sampling.max_tokens]
        text = bytes(ids).decode(errors="ignore")
    return Completion(text, reason, ids, (0.0,) * len(ids))
