"""Process reward models in this process, by Transformers. `judges/prm.py` asks them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import torch
from transformers import AutoModelForTokenClassification

from stepagent.errors import BackendError, ModelError
from stepagent.models.loading import load_model, pick_device, pick_dtype
from stepagent.models.spans import span
from stepagent.models.tokenizer import ChatTokenizer
from stepagent.types import Problem, Step, Usage


class _Scorer:
    """Scorer that makes one forward pass per level, with all candidates of a prefix in one padded batch."""

    def __init__(self, model: Any, tokenizer: ChatTokenizer) -> None:
        self.tokenizer = tokenizer
        self._model = model.eval()
        self._lock = asyncio.Lock()  # one forward pass at a time
        self._window = span(model.config).positions

    async def score(
        self, problem: Problem, prefix: Sequence[Step], candidates: Sequence[Step]
    ) -> tuple[list[float], Usage]:
        """See StepScorer. Raises BackendError for a context that is longer than the model's window."""
        before = list(self.tokenizer.opening_ids(self._question(problem.question)))
        for step in prefix:
            before += self._step(step)
        rows = [before + self._step(step) for step in candidates]
        longest = max(map(len, rows))
        if longest > self._window:
            raise BackendError(f"{longest} tokens are more than the reward model's window of {self._window}")
        async with self._lock:
            chances = await asyncio.to_thread(self._chances, rows)
        return chances, Usage(1, sum(map(len, rows)), 0)

    @torch.inference_mode()
    def _chances(self, rows: Sequence[Sequence[int]]) -> list[float]:
        longest = max(map(len, rows))
        device = self._model.device
        ids = torch.zeros(len(rows), longest, dtype=torch.long, device=device)
        token_mask = torch.zeros_like(ids)
        for place, row in enumerate(rows):  # padded on the right, where causal attention does not look
            ids[place, : len(row)] = torch.tensor(row)
            token_mask[place, : len(row)] = 1
        logits = self._model(input_ids=ids, attention_mask=token_mask).logits.float()
        last = torch.tensor([len(row) - 1 for row in rows], device=device)
        chances: list[float] = self._right(logits[torch.arange(len(rows), device=device), last]).tolist()
        return chances

    def _question(self, question: str) -> str:
        return question + "\n"

    def _step(self, step: Step) -> list[int]:
        raise NotImplementedError

    def _right(self, logits: torch.Tensor) -> torch.Tensor:
        """Return the probability of a right step [rows] from logits [rows, labels or vocabulary]."""
        raise NotImplementedError


class TokenClassificationPrm(_Scorer):
    """Token classifier with two labels, 1 for a right step, read at the separator after each step, as TRL's
    PRMTrainer trains it. Raises ModelError for another number of labels."""

    def __init__(self, model: str, separator: str = "\n", device: str = "auto", *, dtype: str = "auto") -> None:
        place = pick_device(device)
        tokenizer = ChatTokenizer(model, chat=False)
        loaded = load_model(model, pick_dtype(dtype, place), place, kind=AutoModelForTokenClassification)
        if loaded.config.num_labels != 2:
            raise ModelError(
                f"{model}: {loaded.config.num_labels} labels; a process reward model has two, wrong and right"
            )
        super().__init__(loaded, tokenizer)
        self._separator = tokenizer.ids(separator)

    def _step(self, step: Step) -> list[int]:
        ids = self.tokenizer.ids(step.content)
        return [*ids, *self._separator]

    def _right(self, logits: torch.Tensor) -> torch.Tensor:
        return logits.softmax(-1)[:, 1]


class TagPrm(_Scorer):
    """Causal model that says "+" or "-" at a tag after each step (Math-Shepherd, arXiv 2312.08935).

    The score is the probability of `good` against `bad` at the `tag`. Raises ModelError if one of the three
    is not one token.
    """

    def __init__(
        self,
        model: str,
        tag: str = "ки",
        good: str = "+",
        *,
        bad: str = "-",
        device: str = "auto",
        dtype: str = "auto",
    ) -> None:
        place = pick_device(device)
        tokenizer = ChatTokenizer(model, chat=False)
        super().__init__(load_model(model, pick_dtype(dtype, place), place), tokenizer)
        self._tag_id, self._good, self._bad = (self._one_token(model, text) for text in (tag, good, bad))

    def _one_token(self, model: str, text: str) -> int:
        ids = self.tokenizer.ids(text)
        ids = ids[-1:] if len(ids) == 2 and not self.tokenizer.text(ids[:1]).strip() else ids
        if len(ids) != 1:
            raise ModelError(f"{model}: '{text}' is {len(ids)} tokens; judge.backend.tag, good and bad are one")
        return int(ids[0])

    def _step(self, step: Step) -> list[int]:
        ids = self.tokenizer.ids(step.content + " ")
        return [*ids, self._tag_id]

    def _right(self, logits: torch.Tensor) -> torch.Tensor:
        return logits[:, [self._good, self._bad]].softmax(-1)[:, 0]
