"""The tokenizer of a model, and its chat template."""

from __future__ import annotations

import json
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from stepagent.errors import ModelError
from stepagent.models.loading import check_folder, first_line
from stepagent.types import Message


def load_tokenizer(model: str | Path, chat: bool = True) -> Any:
    """The tokenizer of a model. Raises ModelError if there is none, or (`chat`) no chat template."""
    check_folder(model)
    remedy = "copy tokenizer.json and tokenizer_config.json into the folder"
    names = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt")
    if Path(model).is_dir() and not any((Path(model) / name).is_file() for name in names):
        # asked all the same, Transformers would make an empty tokenizer for some model types
        raise ModelError(f"{model}: the folder holds no tokenizer; {remedy}")
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(model))
    except (OSError, ValueError, TypeError) as error:
        raise ModelError(f"{model}: no usable tokenizer ({first_line(error)}); {remedy}") from None
    if chat and not tokenizer.chat_template:
        raise ModelError(
            f"{model}: the tokenizer has no chat template; add chat_template.jinja to the folder"
        )
    return tokenizer


def render(tokenizer: Any, messages: Iterable[Message]) -> str:
    """The chat turns and the opening of the reply, as the model's chat template writes them."""
    turns = [{"role": turn.role, "content": turn.content} for turn in messages]
    return str(tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False))


def tokenizer_sha256(tokenizer: Any) -> str:
    """A hash of the vocabulary: equal hashes mean that equal ids are equal tokens."""
    vocabulary = sorted(tokenizer.get_vocab().items())
    return sha256(json.dumps(vocabulary).encode()).hexdigest()
