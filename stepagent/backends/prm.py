"""Process reward models in this process, by Transformers. See `judges/prm.py` for what they are asked."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import torch
from transformers import AutoModelForTokenClassification

from stepagent.errors import BackendError, ModelError
from stepagent.models.loading import context_window, load_model, pick_device, pick_dtype
from stepagent.models.tokenizer import load_tokenizer
from stepagent.types import Problem, Step, Usage


class _Scorer:
    """One forward pass per level: all candidates of a prefix in one padded batch."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self._model = model.eval()
        self._turn = asyncio.Lock()
        self._window = context_window(model.config)

    async def score(
        self, problem: Problem, prefix: Sequence[Step], candidates: Sequence[Step]
    ) -> tuple[list[float], Usage]:
        """See StepScorer. Raises BackendError for a context that is longer than the model's window."""
        before = self.tokenizer(self._question(problem.question))["input_ids"]
        for step in prefix:
            before += self._step(step)
        rows = [before + self._step(step) for step in candidates]
        longest = max(map(len, rows))
        if longest > self._window:
            raise BackendError(f"{longest} tokens are more than the reward model's window of {self._window}")
        async with self._turn:
            chances = await asyncio.to_thread(self._chances, rows)
        return chances, Usage(1, sum(map(len, rows)), 0)

    @torch.inference_mode()
    def _chances(self, rows: Sequence[Sequence[int]]) -> list[float]:
        longest = max(map(len, rows))
        device = self._model.device
        ids = torch.zeros(len(rows), longest, dtype=torch.long, device=device)
        seen = torch.zeros_like(ids)
        for place, row in enumerate(rows):  # padded on the right: causal attention never sees it
            ids[place, : len(row)] = torch.tensor(row)
            seen[place, : len(row)] = 1
        logits = self._model(input_ids=ids, attention_mask=seen).logits.float()
        last = torch.tensor([len(row) - 1 for row in rows], device=device)
        chances: list[float] = self._right(logits[torch.arange(len(rows), device=device), last]).tolist()
        return chances

    def _question(self, question: str) -> str:
        return question + "\n"

    def _step(self, step: Step) -> list[int]:
        raise NotImplementedError

    def _right(self, logits: torch.Tensor) -> torch.Tensor:
        """[rows, labels or vocabulary] -> [rows]: the probability of a right step."""
        raise NotImplementedError


class TokenClassificationPrm(_Scorer):
    """A token classifier with two labels, 1 for a right step, read at the separator after each step: what
    TRL's PRMTrainer trains. Raises ModelError for another number of labels."""

    def __init__(self, model: str, separator: str = "\n", device: str = "auto", dtype: str = "auto") -> None:
        where = pick_device(device)
        tokenizer = load_tokenizer(model, chat=False)
        try:
            loaded = AutoModelForTokenClassification.from_pretrained(
                model, dtype=pick_dtype(dtype, where)
            ).to(where)
        except (OSError, ValueError, KeyError) as error:
            raise ModelError(f"{model}: cannot load the reward model ({str(error)[:150]})") from None
        if loaded.config.num_labels != 2:
            raise ModelError(
                f"{model}: {loaded.config.num_labels} labels; a process reward model has two, wrong and right"
            )
        super().__init__(loaded, tokenizer)
        self._separator = tokenizer(separator, add_special_tokens=False)["input_ids"]

    def _step(self, step: Step) -> list[int]:
        ids: list[int] = self.tokenizer(step.content, add_special_tokens=False)["input_ids"]
        return [*ids, *self._separator]

    def _right(self, logits: torch.Tensor) -> torch.Tensor:
        return logits.softmax(-1)[:, 1]


class TagPrm(_Scorer):
    """A causal model that says "+" or "-" at a tag after each step (Math-Shepherd, arXiv 2312.08935): the
    probability of `good` against `bad` at the `tag`. Raises ModelError if one of them is not one token."""

    def __init__(
        self,
        model: str,
        tag: str = "ки",
        good: str = "+",
        bad: str = "-",
        device: str = "auto",
        dtype: str = "auto",
    ) -> None:
        where = pick_device(device)
        tokenizer = load_tokenizer(model, chat=False)
        super().__init__(load_model(model, pick_dtype(dtype, where), where), tokenizer)
        self._tag_id, self._good, self._bad = (self._one_token(model, text) for text in (tag, good, bad))

    def _one_token(self, model: str, text: str) -> int:
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        ids = ids[-1:] if len(ids) == 2 and not self.tokenizer.decode(ids[:1]).strip() else ids
        if len(ids) != 1:
            raise ModelError(
                f"{model}: '{text}' is {len(ids)} tokens; judge.backend.tag, good and bad are one"
            )
        return int(ids[0])

    def _step(self, step: Step) -> list[int]:
        ids: list[int] = self.tokenizer(step.content + " ", add_special_tokens=False)["input_ids"]
        return [*ids, self._tag_id]

    def _right(self, logits: torch.Tensor) -> torch.Tensor:
        return logits[:, [self._good, self._bad]].softmax(-1)[:, 0]
