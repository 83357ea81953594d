"""A real vLLM server (its CPU build) and tiny models that it can serve, for tests and benchmarks."""

from __future__ import annotations

import os
import random
import socket
from pathlib import Path
from typing import Any

import torch
from _bench import WarningMonitor

from stepagent.config.settings import LoraSettings, OptimizeSettings, ServeSettings
from stepagent.files.jsonl import write_rows
from stepagent.models.tokenizer import ChatTokenizer
from stepagent.training.dpo import optimize_model
from stepagent.types import Message, StepPreference

ROOT = Path(__file__).parents[1]
ENV = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}


def vllm_python() -> str:
    """Return the interpreter that has vLLM: that of $STEPAGENT_VLLM, or the one that `make vllm` made."""
    python = os.environ.get("STEPAGENT_VLLM") or str(ROOT / ".vllm" / "bin" / "python")
    if not Path(python).is_file():
        raise FileNotFoundError(f"{python}: no vLLM; run `make vllm`, or set STEPAGENT_VLLM")
    return python


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def serve_settings(**settings: Any) -> ServeSettings:
    """Return the settings of a managed server of the tiny models. vLLM 0.32 on a CPU dies when a seeded prompt is
    prefilled in parts ("CPU Generator does not use offset"): the batch is made large enough that none is."""
    return ServeSettings(
        command=(vllm_python(), "-m", "vllm.entrypoints.openai.api_server"),
        args=(
            "--dtype",
            "float32",
            "--max-model-len",
            "512",
            "--enable-lora",
            "--max-lora-rank",
            "16",
            "--max-num-batched-tokens",
            "16384",
        ),
        env=ENV,
        port=free_port(),
        start_seconds=300,
        **settings,
    )


THINKING = (
    "{% if add_generation_prompt and enable_thinking is defined %}"
    "{{ '<think>\\n' if enable_thinking else '<think>\\n\\n</think>\\n\\n' }}{% endif %}"
)
"""The end of a chat template with Qwen3's switch: it opens a thought, or an empty one, or leaves it to the model."""


def make_model(folder: Path, seed: int = 1, hidden: int = 64, *, layers: int = 2, thinks: bool = False) -> Path:
    """Write a Qwen2 with random weights, the arithmetic world's tokenizer, and heads for vLLM's CPU build; one that
    `thinks` has tokens for the marks of a thought, and a switch in its chat template. Returns its folder."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from stepagent.demo.make_base import make_tokenizer

    torch.manual_seed(seed)
    tokenizer = make_tokenizer()
    if thinks:
        tokenizer.add_tokens(["<think>", "</think>"])
        tokenizer.chat_template += THINKING
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 32,
        num_key_value_heads=hidden // 32,
        max_position_embeddings=1024,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.2,
    )
    Qwen2ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_preferences(model: Path, path: Path, count: int = 32) -> Path:
    """Write pairs of random lines after random sums. Returns their file."""
    tokenizer = ChatTokenizer(model)
    rng = random.Random(0)
    rows = []
    for index in range(count):
        prompt = tokenizer.render([Message("user", f"{rng.randrange(100)}+{rng.randrange(100)}")])
        chosen, rejected = (f"{rng.randrange(10**6)}\n" for _ in range(2))
        rows.append(
            StepPreference(
                prompt=prompt,
                chosen=chosen,
                rejected=rejected,
                question="",
                prefix=(),
                prompt_ids=tokenizer.ids(prompt),
                chosen_ids=tokenizer.ids(chosen),
                rejected_ids=tokenizer.ids(rejected),
                chosen_ends=False,
                rejected_ends=False,
                margin=0.9,
                problem_id=str(index),
                depth=1,
                round=1,
                generator="sample",
                judge="random",
                tokenizer_sha256=tokenizer.sha256,
            )
        )
    write_rows(path, rows)
    return path


def train_next(model: Path, preferences: Path, out: Path) -> Path:
    """Train M_{i+1} of `model`: a few steps of step-DPO on an adapter, merged. Returns its folder."""
    settings = OptimizeSettings(learning_rate=1e-2, epochs=2, batch_size=8, lora=LoraSettings(rank=8))
    monitor = WarningMonitor(lambda _: None)
    optimize_model(model, preferences, out, settings=settings, seed=0, monitor=monitor)
    return out
