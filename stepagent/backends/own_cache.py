"""Decoding with the model's own cache, one request's samples at a time and without padding: the way of Transformers'
`generate`, which hybrid, recurrent and windowed models need. The last resort is no cache at all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import Cache
from transformers.generation.utils import ALL_CACHE_NAMES

from stepagent.backends.decoding import Decoder, Group, Row


class _Samples:
    """The samples of one request: the token ids up to now, `ids` [samples, length], and the model's state."""

    def __init__(self, model: Any, prompt: Sequence[int], rows: Sequence[Row], *, cached: bool) -> None:
        self.rows = list(rows)
        self.ids = torch.tensor([list(prompt)] * len(rows), device=model.device)
        self._model = model
        self._cached = cached
        self._arguments: dict[str, Any] = {}
        self.logits = torch.zeros(0, 0)

    def prefill(self) -> None:
        """Compute the state and the logits of the next token from all ids. Equal prompts are computed once, where
        the model's cache can be copied."""
        if not self._cached:
            self.logits = self._model(input_ids=self.ids, use_cache=False).logits[:, -1].float()
            return
        self._arguments = {"use_cache": True}
        if self._model._supports_default_dynamic_cache():
            # Transformers' generate names it so, by the name of the class
            name = "cache_params" if "mamba" in type(self._model).__name__.lower() else "past_key_values"
            self._arguments[name] = DynamicCache(config=self._model.config.get_text_config(decoder=True))
        shared = bool((self.ids == self.ids[:1]).all()) and self._cache() is not None
        ids = self.ids[:1] if shared else self.ids
        self._forward(ids, first=True)
        if shared:
            self._select(torch.zeros(len(self.ids), dtype=torch.long, device=self.ids.device))

    def extend(self, tokens: torch.Tensor, *, anew: bool) -> None:
        """Append a token to every sample ([samples]) and compute the logits of the next, `anew`: from all ids."""
        self.ids = torch.cat([self.ids, tokens[:, None].to(self.ids)], dim=1)
        if anew or not self._cached:
            self.prefill()
        else:
            self._forward(self.ids, first=False)

    def keep(self, places: list[int]) -> None:
        """Keep the samples at `places` alone."""
        if len(places) == len(self.rows):
            return
        index = torch.tensor(places, dtype=torch.long, device=self.ids.device)
        self.rows = [self.rows[i] for i in places]
        self.ids = self.ids[index]
        if not isinstance(self._cache(), Cache) and self._cached:
            self.prefill()  # a state of the model's own kind, which only the model can take apart
        else:
            self._select(index)

    def _cache(self) -> Any:
        return next((self._arguments[name] for name in ALL_CACHE_NAMES if name in self._arguments), None)

    def _select(self, index: torch.Tensor) -> None:
        if isinstance(cache := self._cache(), Cache):
            cache.reorder_cache(index)
        self.logits = self.logits[index]

    def _forward(self, ids: torch.Tensor, *, first: bool) -> None:
        shape = ids.shape
        arguments = {**self._arguments, "attention_mask": torch.ones(shape, dtype=torch.long, device=ids.device)}
        if self._takes_positions():
            arguments["position_ids"] = torch.arange(shape[1], device=ids.device)[None].expand(shape)
        inputs = self._model.prepare_inputs_for_generation(
            ids, next_sequence_length=None if first else 1, is_first_iteration=first, **arguments
        )
        output = self._model(**inputs, return_dict=True)
        for name in ALL_CACHE_NAMES:
            if self._cached and (state := output.get(name)) is not None:
                self._arguments[name] = state
        self.logits = output.logits[:, -1].float()

    def _takes_positions(self) -> bool:
        return "position_ids" in self._model.forward.__code__.co_varnames


class OwnCache(Decoder):
    """Rows in groups, a request each. `cached` is whether the model keeps a state from token to token; `switch`: a
    longer sequence (tokens) changes the positions of all its tokens, so that everything is computed anew there, and
    the log-probabilities of a row that passed it are those of its whole text."""

    def __init__(
        self, model: Any, tokenizer: Any, end_ids: Sequence[int], *, cached: bool, switch: int | None = None
    ) -> None:
        super().__init__(model, tokenizer, end_ids)
        self._cached = cached
        self._switch = switch
        self._groups: list[_Samples] = []

    @torch.inference_mode()
    def admit(self, groups: Sequence[Group]) -> None:
        """See Decoder; each prompt has forward passes of its own."""
        for prompt, rows in groups:
            samples = _Samples(self._model, prompt, rows, cached=self._cached)
            samples.prefill()
            self._groups.append(samples)
            self.rows += rows
        self._logits = torch.cat([group.logits for group in self._groups])

    def clear(self) -> None:
        """See Decoder."""
        super().clear()
        self._groups = []

    def _keep(self, index: list[int]) -> list[int]:
        staying = set(index)
        start, groups = 0, []
        for group in self._groups:
            places = [i for i in range(len(group.rows)) if start + i in staying]
            start += len(group.rows)
            self._rescore(group, [i for i in range(len(group.rows)) if i not in places])
            if places:
                group.keep(places)
                groups.append(group)
        self._groups = groups
        self.rows = [self.rows[i] for i in index]
        return index

    def _extend(self, tokens: torch.Tensor) -> None:
        for group, part in zip(self._groups, torch.split(tokens, [len(g.rows) for g in self._groups]), strict=True):
            group.extend(part, anew=group.ids.shape[1] == self._switch)
        self._logits = torch.cat([group.logits for group in self._groups])

    def _rescore(self, group: _Samples, places: list[int]) -> None:
        """Set the log-probabilities of finished rows, if they passed the switch, to those of a plain forward pass."""
        for place in places:
            row = group.rows[place]
            start = group.ids.shape[1] + 1 - len(row.token_ids)
            if self._switch and start <= self._switch < start + len(row.token_ids):
                ids = torch.tensor([[*group.ids[place, :start].tolist(), *row.token_ids]], device=group.ids.device)
                logits = self._model(input_ids=ids, use_cache=False).logits[0, start - 1 : -1].float()
                chosen = logits.log_softmax(-1).gather(1, ids[0, start:, None])[:, 0]
                row.logprobs = chosen.tolist()
