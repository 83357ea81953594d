"""A tiny model whose token ids are plain bytes, with special tokens behind them, and chat templates of real families.

The id of a byte is the byte itself, so that expected ids can be written by hand: `[*b"1+1"]`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

SPECIAL = {
    name: 256 + index
    for index, name in enumerate(
        ["<pad>", "<s>", "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<start_of_turn>", "<end_of_turn>"]
    )
}
THINK, THOUGHT = 263, 264
VOCABULARY = 272

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}"
    "{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}"
    "{{ '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{'<start_of_turn>model\\n'}}{% endif %}"
)
THINKING = CHATML.replace("assistant\\n' }}{% endif %}", "assistant\\n<think>\\n' }}{% endif %}")
DATED = "{{ 'Today Date: ' + strftime_now('%d %b %Y') + '\\n' }}" + CHATML
WITHOUT_SYSTEM = CHATML.replace("messages %}", "messages if message.role != 'system' %}", 1)
WITHOUT_END = (
    "{% for message in messages %}{{ message.role + ': ' + message.content + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)


def byte_letters() -> list[str]:
    """Return the letter by which byte-level BPE writes each byte (GPT-2's table)."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    spare = iter(range(256, 512))
    return [chr(byte) if byte in plain else chr(next(spare)) for byte in range(256)]


def write_tokenizer(
    folder: Path, template: str | None = CHATML, eos: str | None = "<|im_end|>", *, adds_start: bool = False
) -> None:
    """Write the tokenizer into a folder; with `adds_start` it opens every text with <s>."""
    tokenizer = Tokenizer(models.BPE(vocab={letter: byte for byte, letter in enumerate(byte_letters())}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(name, normalized=False) for name in SPECIAL])
    tokenizer.add_tokens([AddedToken(name, normalized=False) for name in ("<think>", "</think>")])
    if adds_start:
        tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", SPECIAL["<s>"])])
    raw = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token=eos, pad_token="<pad>", chat_template=template
    )
    raw.save_pretrained(folder)


def write_model(folder: Path, *, embeddings: int = VOCABULARY, says: int | None = None) -> None:
    """Write a Llama of one layer into a folder; with `says` its every token is that one."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=embeddings,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=256,
        bos_token_id=None,
        eos_token_id=None,
    )
    model = LlamaForCausalLM(config)
    if says is not None:
        weights: Mapping[str, torch.Tensor] = model.state_dict()
        for name, weight in weights.items():
            weight.fill_(0.0 if "_proj" in name or name == "lm_head.weight" else 1.0)
        weights["lm_head.weight"][says] = 10.0
    model.save_pretrained(folder)
