"""Token ids in and out of a vLLM server: a step continues exactly the sampled tokens before it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from stepagent.backends.chat import first_tokens, plain, said
from stepagent.backends.endpoint import Endpoint, turns
from stepagent.backends.probe import PROBE
from stepagent.errors import BackendError
from stepagent.types import Completion, Completions, Message, Prompt, Sampling, Usage

_RENDERED = 4096  # chat turns whose ids are remembered: all steps of a problem share theirs


@dataclass(frozen=True, slots=True)
class _Rendered:
    ids: tuple[int, ...]
    text: str
    window: int


class TokenIds:
    """Asks `endpoint`; `tokenizer_sha256` is that of the served model, if it is known. See Backend for
    `complete`."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.tokenizer_sha256: str | None = None
        self._endpoint = endpoint
        self._rendered: OrderedDict[tuple[Message, ...], _Rendered] = OrderedDict()

    async def render(self, messages: tuple[Message, ...]) -> _Rendered:
        if messages in self._rendered:
            self._rendered.move_to_end(messages)
            return self._rendered[messages]
        reply = await self._endpoint.post("/tokenize", {"messages": turns(messages)})
        ids = tuple(reply["tokens"])
        text = await self._detokenise(ids)
        self._rendered[messages] = _Rendered(ids, text, int(reply["max_model_len"]))
        if len(self._rendered) > _RENDERED:
            self._rendered.popitem(last=False)
        return self._rendered[messages]

    async def _detokenise(self, ids: Sequence[int]) -> str:
        return str((await self._endpoint.post("/detokenize", {"tokens": list(ids)}))["prompt"])

    async def complete(self, prompt: Prompt, sampling: Sampling) -> Completions:
        if not (prompt.prefix_text or sampling.stop):
            return await self._whole_reply(prompt, sampling)
        rendered = await self.render(prompt.messages)
        prefix = prompt.prefix_ids
        if prefix is None:
            asked = {"prompt": prompt.prefix_text, "add_special_tokens": False}
            prefix = tuple((await self._endpoint.post("/tokenize", asked))["tokens"])
        ids = rendered.ids + prefix
        room = rendered.window - len(ids)
        if room <= 0:
            raise BackendError(
                f"the context has {len(ids)} tokens and the server's window {rendered.window}; shorten the "
                "problem or the steps"
            )
        body = {
            "prompt": list(ids),
            "n": sampling.n,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_tokens": min(sampling.max_tokens, room),
            "stop": list(sampling.stop) or None,
            "seed": sampling.seed % 2**31,
            "logprobs": 1,
            "return_token_ids": True,
            "include_stop_str_in_output": True,
        }
        found, _ = await self._endpoint.choices("completions", body)
        choices = tuple([await self._exact(choice) for choice in found])
        sampled = sum(len(choice.token_ids or ()) for choice in choices)
        text = rendered.text + prompt.prefix_text
        return Completions(choices, text, ids, Usage(1, len(ids), sampled), self.tokenizer_sha256)

    async def _whole_reply(self, prompt: Prompt, sampling: Sampling) -> Completions:
        """A reply to its end, as for judging, takes one request: the chat API renders and tokenises."""
        window = (await self.render(PROBE)).window
        body = {
            "messages": turns(prompt.messages),
            "n": sampling.n,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_tokens": min(sampling.max_tokens, window),
            "seed": sampling.seed % 2**31,
            "logprobs": True,
            "top_logprobs": sampling.top_logprobs,
            "return_token_ids": True,
        }
        found, reply = await self._endpoint.choices("chat/completions", body)
        choices = tuple(
            replace(
                said(self._endpoint, choice),
                token_ids=tuple(choice["token_ids"]),
                logprobs=tuple(token["logprob"] for token in choice["logprobs"]["content"]),
                first=first_tokens(choice) if sampling.top_logprobs else None,
            )
            for choice in found
        )
        ids = tuple(reply["prompt_token_ids"])
        sampled = sum(len(choice.token_ids or ()) for choice in choices)
        return Completions(choices, plain(prompt), ids, Usage(1, len(ids), sampled), self.tokenizer_sha256)

    async def _exact(self, choice: dict[str, Any]) -> Completion:
        """A stop string may end inside its last token: the text goes on to that token's end."""
        ids = tuple(choice["token_ids"])
        reason, text = self._endpoint.reason(choice), choice["text"]
        if reason == "end" and isinstance(choice.get("stop_reason"), str):
            reason = "stop"
            last = (choice["logprobs"].get("tokens") or [""])[-1]
            if not last or not text.endswith(last):
                text = await self._detokenise(ids)
        return Completion(text, reason, ids, tuple(choice["logprobs"]["token_logprobs"]))
