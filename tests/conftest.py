"""Tiny real models, made once per test session from a config: no hub, no download."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "benchmarks")]


@pytest.fixture(scope="session")
def base_model() -> Path:
    """The shipped M_0 of the arithmetic world."""
    import stepagent.demo

    return Path(stepagent.demo.__file__).parent / "base"


@pytest.fixture(scope="session")
def random_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A two-layer Qwen2 with random weights and the arithmetic world's tokenizer."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from stepagent.demo.make_base import make_tokenizer

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model") / "random"
    tokenizer = make_tokenizer()
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    Qwen2ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
