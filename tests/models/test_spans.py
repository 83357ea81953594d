"""How far a model sees, read from the configs of real families."""

from __future__ import annotations

import pytest
import transformers as hf

from stepagent import ModelError
from stepagent.models.spans import Span, context_limit, span

ROPE = {"rope_type": "longrope", "short_factor": [1.0], "long_factor": [4.0], "original_max_position_embeddings": 24}


@pytest.mark.parametrize(
    ("config", "limits"),
    [
        (hf.LlamaConfig(max_position_embeddings=128), Span(128, None, None, False)),
        (hf.MistralConfig(max_position_embeddings=128, sliding_window=16), Span(128, 16, None, False)),
        (hf.Qwen2Config(max_position_embeddings=128, use_sliding_window=False), Span(128, None, None, False)),
        (hf.Llama4Config(), Span(131072, 8192, None, False)),
        (hf.Gemma3Config(), Span(131072, 4096, None, False)),
        (hf.GPTNeoConfig(), Span(2048, 256, None, False)),
        (hf.GPT2Config(), Span(1024, None, None, False)),
        (
            hf.LlamaConfig(max_position_embeddings=24, rope_parameters={"rope_type": "dynamic", "factor": 4.0}),
            Span(24, None, 24, True),
        ),
        (hf.MambaConfig(), Span(1 << 20, None, None, False)),
    ],
    ids=lambda value: value.model_type if hasattr(value, "model_type") else "",
)
def test_spans(config: hf.PreTrainedConfig, limits: Span) -> None:
    assert span(config) == limits


def test_a_switch_of_the_rotary_frequencies_bounds_what_is_steady() -> None:
    config = hf.Phi3Config(max_position_embeddings=96, original_max_position_embeddings=24, pad_token_id=0)
    config.rope_parameters = {**ROPE, "rope_theta": 10000.0}
    assert span(config) == Span(96, None, 24, False)
    assert span(config).steady == 24
    assert context_limit(config, None) == 96


def test_a_context_for_which_no_log_probability_stays_is_refused() -> None:
    dynamic = hf.LlamaConfig(max_position_embeddings=24, rope_parameters={"rope_type": "dynamic", "factor": 4.0})
    assert context_limit(dynamic, 24) == 24
    with pytest.raises(ModelError, match=r"max_context 25: beyond 24 tokens .* set max_context to 24 or less"):
        context_limit(dynamic, 25)
    with pytest.raises(ModelError, match="this model has 1024 positions"):
        context_limit(hf.GPT2Config(), 1025)
    with pytest.raises(ModelError, match="max_context 2049: beyond 2048 tokens this model attends to a selection"):
        context_limit(hf.DeepseekV32Config(), 2049)
    assert context_limit(hf.DeepseekV32Config(), None) == 2048
    assert context_limit(hf.LlamaConfig(max_position_embeddings=24), 48) == 48, "rotary positions go on"
