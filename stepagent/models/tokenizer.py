"""The tokenizer of a model together with its chat template: one class for every text that becomes token ids."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from stepagent.errors import ModelError
from stepagent.models.folders import check_folder
from stepagent.models.loading import first_line, load_config, silenced
from stepagent.types import Message

_FILES = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt")
_REMEDY = "copy tokenizer.json and tokenizer_config.json into the folder"
_NEWER = "it is of a newer version: upgrade transformers and tokenizers"
_TODAY = datetime(2024, 7, 26, tzinfo=UTC)  # what templates take for today: a run goes on on any day
_PROBE = "stepagent"
_OPENED_THOUGHT = re.compile(r"(<[a-z_]*think[a-z_]*>)\s*\Z")


class ChatTokenizer:
    """The tokenizer of the model in a folder or under a hub id. `raw` is that of Transformers.

    Raises ModelError if there is none, or (`chat`) no chat template that works, or no token that ends a turn.
    """

    def __init__(self, model: str | Path, chat: bool = True) -> None:
        check_folder(model)
        self._model = model
        if Path(model).is_dir() and not any((Path(model) / name).is_file() for name in _FILES):
            # asked all the same, Transformers would make an empty tokenizer for some model types
            raise ModelError(f"{model}: the folder holds no tokenizer; {_REMEDY}")
        try:
            with silenced():
                self.raw: Any = AutoTokenizer.from_pretrained(str(model), trust_remote_code=False)
        except Exception as error:  # noqa: BLE001 (whatever Transformers and its readers raise)
            load_config(model)  # its fault would stop the tokenizer, too
            remedy = _NEWER if "did not match any variant" in str(error) else _REMEDY
            raise ModelError(f"{model}: no usable tokenizer ({first_line(error)}); {remedy}") from None
        self._chat = chat
        if chat and not self.raw.chat_template:
            raise ModelError(
                f"{model}: the tokenizer has no chat template; add chat_template.jinja to the folder (that of the "
                "model's instruct version fits a base model)"
            )
        if chat:
            if _PROBE not in self._apply([{"role": "user", "content": _PROBE}]):
                raise ModelError(f"{model}: the chat template leaves out what a user says; mend chat_template.jinja")
            _ = self.end_id

    def __len__(self) -> int:
        return len(self.raw)

    def render(self, messages: Iterable[Message], **variables: bool) -> str:
        """Return the chat turns and the opening of the reply, as the model's chat template writes them with these
        variables. A template that refuses or drops a system turn gets its text at the beginning of the first user
        turn. Raises ModelError for a template that fails."""
        turns = [{"role": turn.role, "content": turn.content} for turn in messages]
        system = "\n\n".join(turn["content"] for turn in turns if turn["role"] == "system")
        if not system:
            return self._apply(turns, **variables)
        return self._apply(turns if self._writes_system else _without_system(turns, system), **variables)

    @cached_property
    def _writes_system(self) -> bool:
        """Whether the template writes a system turn: some refuse it, some leave it out."""
        turns = [{"role": "system", "content": _PROBE}, {"role": "user", "content": "?"}]
        try:
            return _PROBE in self._apply(turns)
        except ModelError:
            return False

    def _apply(self, turns: list[dict[str, str]], *, opens_reply: bool = True, **variables: bool) -> str:
        try:
            return str(
                self.raw.apply_chat_template(
                    turns,
                    add_generation_prompt=opens_reply,
                    tokenize=False,
                    strftime_now=_TODAY.strftime,
                    **variables,
                )
            )
        except Exception as error:  # noqa: BLE001 (a template is a program)
            raise ModelError(
                f"{self._model}: the chat template fails ({first_line(error)}); mend chat_template.jinja"
            ) from None

    def ids(self, text: str) -> tuple[int, ...]:
        """Return the token ids of a text as it stands: nothing is added before or behind it."""
        return tuple(self.raw(text, add_special_tokens=False)["input_ids"])

    def opening_ids(self, text: str) -> tuple[int, ...]:
        """Return the token ids of a text that opens a sequence outside a chat: with the tokenizer's first token, if it
        adds one and the text does not bring it, and without its last one."""
        ids = tuple(self.raw(text, add_special_tokens=True)["input_ids"])
        if ids[:2] == (self.raw.bos_token_id,) * 2:
            ids = ids[1:]
        return ids[:-1] if ids and ids[-1] == self.raw.eos_token_id else ids

    def reply_ids(self, context: str, reply: str) -> tuple[int, ...]:
        """Return the token ids of a whole reply after the rendered turns `context`, with the token that ends a turn.
        A thought that the template has opened, and an end that the text brings, are not written twice."""
        reply = self.unopened(context, reply)
        ids = self.ids(reply.rstrip())
        ends = (self.end_id, self.raw.eos_token_id)
        return (*ids[:-1], self.end_id) if ids and ids[-1] in ends else (*self.ids(reply), self.end_id)

    def unopened(self, context: str, reply: str) -> str:
        """Return a reply without the mark of a thought that `context` has opened already."""
        mark = _OPENED_THOUGHT.search(context)
        if mark and reply.lstrip().startswith(mark[1]):
            return reply.lstrip().removeprefix(mark[1]).lstrip("\n")
        return reply

    def prompt_ids(self, messages: Iterable[Message], reply: str = "") -> tuple[int, ...]:
        """Return the token ids of the rendered chat turns, with the beginning of a reply behind them."""
        return self.ids(self.render(messages) + reply)

    def text(self, ids: Sequence[int], *, special: bool = True) -> str:
        """Return the text of token ids, with or without that of special tokens."""
        return str(self.raw.decode(list(ids), skip_special_tokens=not special))

    @cached_property
    def end_id(self) -> int:
        """The id of the token that ends a turn: the first special one that the chat template writes after a reply, or
        the tokenizer's eos_token. Raises ModelError if there is none."""
        if self._chat:
            turns = [{"role": "user", "content": _PROBE}, {"role": "assistant", "content": _PROBE}]
            after = self._apply(turns, opens_reply=False).rpartition(_PROBE)[2]
            special = set(self.raw.all_special_ids) | set(self.raw.added_tokens_decoder)
            for token in self.ids(after):
                if token in special:
                    return int(token)
        token = self.raw.eos_token_id
        if token is None:
            raise ModelError(
                f"{self._model}: neither the chat template nor the tokenizer says what ends a turn, so no reply could "
                "end; set eos_token in tokenizer_config.json"
            )
        return int(token)

    @cached_property
    def sha256(self) -> str:
        """A hash of the vocabulary: equal hashes mean that equal ids are equal tokens."""
        vocabulary = sorted(self.raw.get_vocab().items())
        return sha256(json.dumps(vocabulary).encode()).hexdigest()

    def save(self, folder: Path) -> None:
        """Write the tokenizer's files into a model folder."""
        self.raw.save_pretrained(folder)


def _without_system(turns: list[dict[str, str]], system: str) -> list[dict[str, str]]:
    """Return the turns with the system's text at the beginning of the first of them that a user wrote."""
    dialogue = [dict(turn) for turn in turns if turn["role"] != "system"]
    first = next((turn for turn in dialogue if turn["role"] == "user"), None)
    if first is None:
        return [{"role": "user", "content": system}, *dialogue]
    first["content"] = f"{system}\n\n{first['content']}"
    return dialogue
