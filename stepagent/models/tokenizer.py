"""The tokenizer of a model together with its chat template: one class for every text that becomes token ids."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from stepagent.errors import ModelError
from stepagent.models.loading import check_folder, first_line
from stepagent.types import Message

_FILES = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt")
_REMEDY = "copy tokenizer.json and tokenizer_config.json into the folder"


class ChatTokenizer:
    """The tokenizer of the model in a folder or under a hub id. `raw` is that of Transformers.

    Raises ModelError if there is none, or (`chat`) no chat template.
    """

    def __init__(self, model: str | Path, chat: bool = True) -> None:
        check_folder(model)
        self._model = model
        if Path(model).is_dir() and not any((Path(model) / name).is_file() for name in _FILES):
            # asked all the same, Transformers would make an empty tokenizer for some model types
            raise ModelError(f"{model}: the folder holds no tokenizer; {_REMEDY}")
        try:
            self.raw: Any = AutoTokenizer.from_pretrained(str(model))
        except (OSError, ValueError, TypeError) as error:
            raise ModelError(f"{model}: no usable tokenizer ({first_line(error)}); {_REMEDY}") from None
        if chat and not self.raw.chat_template:
            raise ModelError(f"{model}: the tokenizer has no chat template; add chat_template.jinja to the folder")

    def __len__(self) -> int:
        return len(self.raw)

    def render(self, messages: Iterable[Message]) -> str:
        """Return the chat turns and the opening of the reply, as the model's chat template writes them."""
        turns = [{"role": turn.role, "content": turn.content} for turn in messages]
        return str(self.raw.apply_chat_template(turns, add_generation_prompt=True, tokenize=False))

    def ids(self, text: str) -> tuple[int, ...]:
        """Return the token ids of a text as it stands: nothing is added before or behind it."""
        return tuple(self.raw(text, add_special_tokens=False)["input_ids"])

    def opening_ids(self, text: str) -> tuple[int, ...]:
        """Return the token ids of a text that opens a sequence outside a chat: with the tokenizer's first token, if it
        adds one, and without its last one."""
        ids = tuple(self.raw(text, add_special_tokens=True)["input_ids"])
        return ids[:-1] if ids and ids[-1] == self.raw.eos_token_id else ids

    def prompt_ids(self, messages: Iterable[Message], reply: str = "") -> tuple[int, ...]:
        """Return the token ids of the rendered chat turns, with the beginning of a reply behind them."""
        return self.ids(self.render(messages) + reply)

    def text(self, ids: Sequence[int], *, special: bool = True) -> str:
        """Return the text of token ids, with or without that of special tokens."""
        return str(self.raw.decode(list(ids), skip_special_tokens=not special))

    @property
    def end_id(self) -> int:
        """The id of the token that ends a turn. Raises ModelError for a tokenizer without one."""
        token: int | None = self.raw.eos_token_id
        if token is None:
            raise ModelError(
                f"{self._model}: the tokenizer has no eos_token, so no reply could end; set it in its config"
            )
        return token

    @cached_property
    def sha256(self) -> str:
        """A hash of the vocabulary: equal hashes mean that equal ids are equal tokens."""
        vocabulary = sorted(self.raw.get_vocab().items())
        return sha256(json.dumps(vocabulary).encode()).hexdigest()

    def save(self, folder: Path) -> None:
        """Write the tokenizer's files into a model folder."""
        self.raw.save_pretrained(folder)
