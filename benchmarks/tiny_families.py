"""Tiny random models of every decoder family of the installed Transformers, made from their configs.

Sizes are small; windows and chunks are 16 tokens; everything else is the family's default: dropout, router noise, caps,
scalings. Every kind of layer occurs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

LAYERS = 4
WINDOW = 16
SWITCH = 24

_SIZES: dict[str, int | list[int]] = {
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "dim_model", "embedding_size", "word_embed_proj_dim"), 32),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "num_layers", "n_layers", "decoder_layers", "num_blocks"), LAYERS),
    **dict.fromkeys(("num_attention_heads", "n_head", "num_heads", "n_heads", "decoder_attention_heads"), 4),
    **dict.fromkeys(("num_key_value_heads", "num_kv_heads", "swa_num_key_value_heads", "num_query_groups"), 2),
    **dict.fromkeys(("head_dim", "kv_channels", "v_head_dim", "qk_rope_head_dim", "qk_nope_head_dim", "d_head"), 8),
    **dict.fromkeys(("swa_head_dim", "attention_head_size", "rotary_dim", "dim_head", "mamba_head_dim"), 8),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "decoder_ffn_dim", "n_inner", "dim_ff", "ffn_hidden_size"), 48),
    **dict.fromkeys(("intermediate_size_mlp", "dense_intermediate_size", "dff", "d_inner"), 48),
    **dict.fromkeys(("shared_intermediate_size", "shared_expert_intermediate_size", "moe_intermediate_size"), 16),
    **dict.fromkeys(("expert_ffn_hidden_size", "moe_shared_expert_intermediate_size", "router_hidden_size"), 16),
    **dict.fromkeys(("num_experts", "n_routed_experts", "num_local_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_topk", "moe_k", "num_experts_per_token", "num_selected_experts"), 2),
    **dict.fromkeys(("n_shared_experts", "num_shared_experts", "moe_num_shared_experts"), 1),
    **dict.fromkeys(("n_group", "topk_group", "first_k_dense_replace", "num_dense_layers"), 1),
    **dict.fromkeys(("kv_lora_rank", "q_lora_rank", "o_lora_rank"), 16),
    **dict.fromkeys(("index_head_dim", "linear_key_head_dim", "linear_value_head_dim", "linear_head_dim"), 8),
    **dict.fromkeys(("index_n_heads", "linear_num_key_heads", "linear_num_heads", "n_groups", "mamba_n_groups"), 2),
    **dict.fromkeys(("linear_num_value_heads",), 4),
    **dict.fromkeys(("state_size", "mamba_d_state", "ssm_state_size", "time_step_rank", "mamba_dt_rank"), 8),
    **dict.fromkeys(("chunk_size", "mamba_chunk_size"), 8),
    **dict.fromkeys(("mamba_d_head", "mamba_headdim"), 8),
    **dict.fromkeys(("sliding_window", "attention_chunk_size", "window_size", "attention_window_size"), WINDOW),
    **dict.fromkeys(("sliding_window_size",), WINDOW),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "context_length", "n_ctx", "max_seq_len"), 256),
    **dict.fromkeys(("max_target_positions", "model_max_length"), 256),
    "vocab_size": 61,
    "vocab_size_per_layer_input": 61,
    "hidden_size_per_layer_input": 8,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": 2,
}

_VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama-dynamic": ("llama", {"max_position_embeddings": SWITCH, "rope": {"rope_type": "dynamic", "factor": 4.0}}),
    "llama-yarn": (
        "llama",
        {"rope": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}},
    ),
    "llama-llama3": (
        "llama",
        {
            "rope": {
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64,
            }
        },
    ),
    "phi3-longrope": (
        "phi3",
        {
            "original_max_position_embeddings": SWITCH,
            "rope": {
                "rope_type": "longrope",
                "short_factor": [1.0] * 4,
                "long_factor": [4.0] * 4,
                "original_max_position_embeddings": SWITCH,
            },
        },
    ),
    "qwen2-window": ("qwen2", {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1}),
    "granitemoehybrid-attention": ("granitemoehybrid", {}),
}
_SLIDING = {"layer_types": ["sliding_attention", "full_attention"] * 2}
_MAMBA = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_n_groups": 1}
_SPECIAL: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("gemma3_text", "laguna", "mellum"), _SLIDING),
    "bamba": {**_MAMBA, "attn_layer_indices": [1, 3]},
    "granitemoehybrid": {**_MAMBA, "layer_types": ["mamba", "attention"] * 2},
    "gemma3n_text": {**_SLIDING, "num_kv_shared_layers": 0, "activation_sparsity_pattern": [0.0] * 4},
    "cohere_compass_text": {
        **_SLIDING,
        "rope_parameters": {
            kind: {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]}
            for kind in ("sliding_attention", "full_attention")
        },
    },
    "gpt_neo": {"attention_types": [[["global", "local"], 2]]},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1},
    "kimi_linear": {"layer_types": ["linear_attention", "full_attention"] * 2},
    "lfm2": {"layer_types": ["conv", "full_attention"] * 2},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2},
    "mamba2": {"num_heads": 8, "head_dim": 8, "n_groups": 1},
    "ministral": _SLIDING,
    "qwen2_moe": {"use_sliding_window": False},
    "xlstm": {"hidden_size": 64, "embedding_dim": 64, "num_heads": 4, "chunk_size": 64},
    "zamba": {"layers_block_type": ["mamba", "mamba", "hybrid", "hybrid"]},
    "zamba2": {"layers_block_type": ["mamba", "hybrid"] * 2, "n_mamba_heads": 8},
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2, "max_window_layers": 2},
    "deepseek_v2": {"num_experts_per_tok": 2},
    "zaya": {"num_experts_per_tok": 1},
}
_ENCODER_DECODERS = (
    "bart bigbird_pegasus blenderbot blenderbot-small marian mbart mvp pegasus plbart prophetnet trocr whisper"
)
_ENCODERS = (
    "bert bert-generation big_bird camembert data2vec-text electra ernie megatron-bert rembert roberta "
    "roberta-prelayernorm roc_bert roformer xlm xlm-roberta xlm-roberta-xl xlnet xmod reformer"
)
_OTHER_INPUTS = "aria_text blt cpmant emu3 fuyu git got_ocr2 mllama moshi musicgen musicgen_melody phi4_multimodal"
LEFT_OUT: dict[str, str] = {
    **dict.fromkeys(_ENCODER_DECODERS.split(), "is the decoder of an encoder-decoder"),
    **dict.fromkeys(_ENCODERS.split(), "is an encoder, whose causal head is no language model that people download"),
    **dict.fromkeys(_OTHER_INPUTS.split(), "takes pictures, sound, bytes or prompts of its own beside token ids"),
    "dbrx": "reads a rope_theta that its config does not have",
    "qwen4_exp": "has defaults that make no model: its indexer has no sizes",
    "qwen4_exp_text": "has defaults that make no model: its indexer has no sizes",
    "gemma3n": "needs timm for its pictures; its text model is in the table",
    **dict.fromkeys(("gemma4_assistant", "gemma4_unified_assistant"), "drafts for another model"),
}
MOST_USED = (
    "llama",
    "qwen2",
    "qwen3",
    "qwen3_moe",
    "qwen3_next",
    "qwen3_5_text",
    "mistral",
    "mixtral",
    "gemma2",
    "gemma3_text",
    "phi3-longrope",
    "gpt_oss",
    "llama4_text",
    "deepseek_v3",
    "glm4_moe",
    "olmoe",
    "granitemoehybrid",
    "falcon_h1",
    "mamba2",
    "gpt2",
)
FAMILIES = (*(name for name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES if name not in LEFT_OUT), *_VARIANTS)


def tiny_model(family: str, seed: int = 0, **sizes: int) -> Any:
    """Return a random model of a family, in float32, in evaluation mode. `sizes` are fields of its config."""
    name, changes = _VARIANTS.get(family, (family, {}))
    torch.manual_seed(seed)
    config = _config(name, {**_SPECIAL.get(name, {}), **changes, **sizes})
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        state = model.state_dict()
        tensors = [*model.named_parameters(), *((n, b) for n, b in model.named_buffers() if n in state)]
        for tensor_name, tensor in tensors:
            if tensor.is_floating_point() and not any(part in tensor_name for part in _GENTLE):
                tensor += 0.1 * torch.randn_like(tensor)
    return model.float().eval()


# Parameters of states that decay: with noise they would grow without bound, or see ahead.
_GENTLE = (
    "balancing_biases",
    "decay",
    "slope_rate",
    "A_log",
    "dt_bias",
    "dt_proj",
    "time_decay",
    "lambda",
    "recurrent_param",
    "igate",
    "fgate",
)


def _config(family: str, changes: Mapping[str, Any]) -> Any:
    """Return the family's config with small sizes."""
    kind = getattr(transformers, CONFIG_MAPPING_NAMES[family])
    whole = kind()
    text = whole.get_text_config(decoder=True)
    values = _small(vars(text), changes)
    try:
        small = type(text)(**values)
    except TypeError:
        small = type(text)(**{k: v for k, v in values.items() if not k.startswith("_")})
    if text is whole:
        return small
    parts = {name: part for name, part in vars(whole).items() if isinstance(part, PreTrainedConfig)}
    small_parts = {
        name: (small if part is text else type(part)(**_small(vars(part), {}))).to_dict()
        for name, part in parts.items()
    }
    return kind(**small_parts)


def _small(fields: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    changes = dict(changes)
    rope = changes.pop("rope", None)
    values: dict[str, Any] = {}
    for name, value in fields.items():
        number = isinstance(value, int) and not isinstance(value, bool)
        if name in _SIZES and (number or (value is None and name in ("head_dim", "num_key_value_heads"))):
            values[name] = _SIZES[name]
    if "kv_lora_rank" in values:  # latent attention has as many key heads as query heads
        values["num_key_value_heads"] = values["num_attention_heads"]
    if rope:
        values["rope_parameters"] = {"rope_theta": 10000.0, **rope}
    return values | changes
