"""Make M_0, the base model shipped in `stepagent/demo/base/`: `python -m stepagent.demo.make_base OUT`.

A Qwen2 of 0.16 M parameters with a vocabulary of characters, trained from random weights on plain text of
the arithmetic world: sums written quickly (slips included) and pairs of lines marked digit by digit.
It has read how people solve and how they mark, but knows neither chat turns nor verdicts: SFT teaches those.
"""

from __future__ import annotations

import argparse
import random
import time
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer

from stepagent.demo.world import (
    HIGH,
    LOW,
    Operation,
    compare,
    in_range,
    make_question,
    quick_solution,
    worked,
)

END = "<|end|>"
SPECIAL = ["<|pad|>", END, "<|user|>", "<|assistant|>", "[[A]]", "[[B]]", "[[C]]"]
CHARACTERS = "0123456789+-=:,>!yn \n|AB"
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message.role + '|>' + message.content }}"
    "{% if message.role == 'assistant' %}{{ '<|end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
BLOCK = 96


def make_tokenizer() -> Qwen2Tokenizer:
    """Return a tokenizer with one token per character, plus the chat marks and the verdict labels.

    It is Qwen2's byte-level BPE without merges, because AutoTokenizer loads every qwen2 folder as that class.
    """
    letters = [{"\n": "Ċ", " ": "Ġ"}.get(character, character) for character in CHARACTERS]
    vocabulary = {word: index for index, word in enumerate([*SPECIAL, *letters])}
    tokenizer = Qwen2Tokenizer(
        vocab=vocabulary,
        merges=[],
        unk_token="<|pad|>",
        pad_token="<|pad|>",
        eos_token=END,
        additional_special_tokens=["<|user|>", "<|assistant|>"],
        chat_template=CHAT_TEMPLATE,
    )
    tokenizer.add_tokens(SPECIAL[4:])
    return tokenizer


def document(rng: random.Random) -> str:
    """Return a text to train on: with chance 1/2 a question and its quick solution, else two lines for one
    sum (or for the answer after a sum), marked digit by digit."""
    if rng.random() < 0.5:
        while (lines := quick_solution(rng, question := make_question(rng))) is None:
            pass
        return "\n".join([question, *lines]) + END
    while True:
        operation = Operation(rng.randint(LOW, HIGH), rng.choice("+-"), rng.randint(10, 49))
        if in_range(operation.value):
            break
    values = [
        operation.value
        if rng.random() < 0.5
        else max(LOW, min(HIGH, operation.value + rng.choice((-20, -10, -3, -2, -1, 1, 2, 3, 10, 20))))
        for _ in range(2)
    ]
    asks_sum = rng.random() < 0.8
    before = [] if asks_sum else [f"{operation}={operation.value}"]
    start = str(operation) if asks_sum else ""
    lines = [f"|{label} {start}={value}" for label, value in zip("AB", values, strict=True)]
    opening = worked(operation) if asks_sum else f"={operation.value}>{operation.value}"
    marks = [compare(s, v, operation.value) for s, v in zip("AB", values, strict=True)]
    return "\n".join([*before, *lines, opening, *marks]) + END


def train(model: Qwen2ForCausalLM, tokenizer: Qwen2Tokenizer, steps: int, *, seed: int) -> None:
    """Train on the next token, with 64 blocks of BLOCK tokens a step; AdamW, one-cycle schedule."""
    rng = random.Random(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, total_steps=steps, pct_start=0.05)
    start = time.monotonic()
    for step in range(1, steps + 1):
        text = ["".join(document(rng) for _ in range(3)) for _ in range(64)]
        ids = [row[:BLOCK] for row in tokenizer(text, add_special_tokens=False)["input_ids"]]
        block = torch.tensor(ids)
        logits = model(input_ids=block).logits[:, :-1]
        loss = cross_entropy(logits.flatten(0, 1), block[:, 1:].flatten())
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            print(f"step {step}/{steps}  loss {loss.item():.3f}  {time.monotonic() - start:.0f} s")  # noqa: T201


def main() -> None:
    """Train the model and save it with its tokenizer."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    tokenizer = make_tokenizer()
    model = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=192,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=256,
            tie_word_embeddings=True,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=None,
        )
    )
    train(model, tokenizer, arguments.steps, seed=arguments.seed)
    model.to(torch.bfloat16).save_pretrained(arguments.out)
    tokenizer.save_pretrained(arguments.out)


if __name__ == "__main__":
    main()
