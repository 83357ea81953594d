"""Tiny random models of every decoder family of the installed Transformers, made from their configs.

Sizes are small; windows, chunks and selections are 16 tokens or fewer; every kind of layer of a family occurs. The rest
is the family's default: dropout, router noise, caps, scalings, tied embeddings.
"""

from __future__ import annotations

from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

LAYERS = 4
WINDOW = 16
SWITCH = 24  # tokens after which a rotary embedding changes

# Sizes by the names of a config's fields. A field that a family leaves at None stays so, but for _FROM_NONE.
_BY_SIZE: tuple[tuple[int, str], ...] = (
    (
        32,
        "hidden_size d_model n_embd emb_dim embedding_size word_embed_proj_dim input_embedding_size "
        "output_embedding_size lru_width",
    ),
    (LAYERS, "num_hidden_layers n_layer num_layers n_layers decoder_layers num_blocks"),
    (
        4,
        "num_attention_heads n_head num_heads n_heads decoder_attention_heads attention_heads swa_num_attention_heads "
        "linear_num_value_heads num_experts n_routed_experts num_local_experts moe_num_experts "
        "hc_lowrank",
    ),
    (
        2,
        "num_key_value_heads num_kv_heads kv_n_heads swa_num_key_value_heads num_query_groups index_n_heads "
        "linear_num_key_heads linear_num_heads n_groups mamba_n_groups o_groups num_experts_per_tok "
        "num_experts_per_token moe_topk moe_top_k moe_k zero_expert_num index_topk_blocks",
    ),
    (
        1,
        "n_shared_experts num_shared_experts moe_num_shared_experts n_group topk_group first_k_dense_replace "
        "num_dense_layers",
    ),
    (
        8,
        "head_dim kv_channels v_head_dim qk_rope_head_dim qk_nope_head_dim swa_head_dim attention_head_size "
        "rotary_dim mamba_head_dim mamba_d_head mamba_headdim index_head_dim linear_key_head_dim "
        "linear_value_head_dim linear_head_dim state_size mamba_d_state ssm_state_size time_step_rank mamba_dt_rank "
        "chunk_size mamba_chunk_size mamba_n_heads mamba_num_heads n_mamba_heads block_size index_topk "
        "index_block_size hidden_size_per_layer_input laurel_rank pronunciation_embed_dim shape_embed_dim ",
    ),
    (
        WINDOW,
        "moe_intermediate_size shared_intermediate_size shared_expert_intermediate_size expert_ffn_hidden_size "
        "moe_shared_expert_intermediate_size router_hidden_size kv_lora_rank q_lora_rank o_lora_rank block_multiple_of "
        "sliding_window sliding_window_size attention_chunk_size window_size attention_window_size local_attention "
        "keep_window_size floor_scale adapter_rank rel_extent",
    ),
    (
        48,
        "intermediate_size ffn_dim decoder_ffn_dim ffn_hidden_size intermediate_size_mlp "
        "dense_intermediate_size dff feed_forward_size",
    ),
    (61, "vocab_size vocab_size_per_layer_input pronunciation_vocab_size shape_vocab_size"),
    (64, "mamba_d_ssm"),
    (256, "max_position_embeddings n_positions context_length n_ctx max_seq_len max_target_positions model_max_length"),
)
_SIZES = {
    **{name: size for size, names in _BY_SIZE for name in names.split()},
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": 2,
}
_FROM_NONE = {"head_dim", "num_key_value_heads", "pad_token_id", "eos_token_id", "bos_token_id"}

_SLIDING = {"layer_types": ["sliding_attention", "full_attention"] * 2}
_DENSE_FIRST = {"mlp_layer_types": ["dense", *["sparse"] * 3]}
_CONV = {"layer_types": ["conv", "full_attention"] * 2}
_WIDE_HEADS = {"global_head_dim": 16}
_SECTIONS = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]}
_DECODER = {"is_decoder": True}
_ENCODERS = (
    "bert bert-generation camembert data2vec-text electra ernie megatron-bert rembert roberta roberta-prelayernorm "
    "roc_bert roformer xlm-roberta xlm-roberta-xl"
)
# What a family's config needs besides, or in other words, by its model type.
_SPECIAL: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("gemma3_text", "laguna", "ministral"), _SLIDING),
    **dict.fromkeys(("lfm2", "lfm2_moe"), _CONV),
    **dict.fromkeys(("gemma4_text", "gemma4_unified_text"), _WIDE_HEADS),
    **dict.fromkeys(_ENCODERS.split(), _DECODER),
    "bamba": {"attn_layer_indices": [1, 3]},
    "big_bird": {**_DECODER, "attention_type": "original_full"},
    "cohere2_moe": _DENSE_FIRST,
    "cohere_compass_text": {
        **_SLIDING,
        "rope_parameters": {"sliding_attention": _SECTIONS, "full_attention": _SECTIONS},
    },
    "deepseek_v2": {"num_experts_per_tok": 2},
    "dbrx": {
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        "attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 8.0},
    },
    "deepseek_v4": {
        "layer_types": ["sliding_attention", "heavily_compressed_attention", *["compressed_sparse_attention"] * 2],
        "mlp_layer_types": ["hash_moe", *["moe"] * 3],
        "compress_rates": {"compressed_sparse_attention": 2, "heavily_compressed_attention": 8},
    },
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2, "max_window_layers": 2},
    "gemma3n_text": {
        **_SLIDING,
        "intermediate_size": [48] * LAYERS,
        "num_kv_shared_layers": 2,
        "activation_sparsity_pattern": [0.95, 0.95, 0.0, 0.0],
    },
    "glm_moe_dsa": {"indexer_types": ["full", "shared"] * 2},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]]},
    "granitemoehybrid": {"layer_types": ["linear_attention", "full_attention"] * 2},
    "inkling_text": {"layer_types": ["hybrid_sliding", "hybrid"] * 2, **_DENSE_FIRST},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1},
    "kimi_linear": {"layer_types": ["linear_attention", "full_attention"] * 2},
    "llama4_text": {"interleave_moe_layer_step": 2},
    "mamba2": {"num_heads": 8},
    "mellum": {**_SLIDING, **_DENSE_FIRST},
    "minicpm3": {"dim_model_base": 16},
    "minimax_m3_vl_text": {"layer_types": ["minimax_m3_sparse", "full_attention"] * 2, **_DENSE_FIRST},
    "qwen4_exp_text": {
        "indexer_n_heads": 2,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 8,
        "indexer_budget": 8,
        "indexer_compress_ratio": 4,
        "ple_layer_ids": [2],
        "ple_embed_dim": 32,
        "heads_per_ngram": 2,
        "ngram_vocab_size_base": 64,
        "split_ngram_parts": 2,
    },
    "reformer": {**_DECODER, "axial_pos_shape": [16, 16], "axial_pos_embds_dim": [16, 16], "hash_seed": 0},
    "xlm": {"causal": True},
    "xlstm": {"hidden_size": 128, "embedding_dim": 128, "chunk_size": 64},
    "xmod": {**_DECODER, "default_language": "en_XX"},
    "zamba": {"layers_block_type": ["linear_attention", "linear_attention", "hybrid", "hybrid"]},
    "zamba2": {"layers_block_type": ["linear_attention", "hybrid"] * 2},
    "zaya": {"num_experts_per_tok": 1, "layer_types": ["hybrid", "hybrid_sliding"] * 2, "sliding_window": WINDOW},
}
_VARIANTS: dict[str, dict[str, Any]] = {
    "llama-dynamic": {"max_position_embeddings": SWITCH, "rope": {"rope_type": "dynamic", "factor": 4.0}},
    "llama-yarn": {"rope": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}},
    "llama-llama3": {
        "rope": {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        }
    },
    "phi3-longrope": {
        "original_max_position_embeddings": SWITCH,
        "rope": {
            "rope_type": "longrope",
            "short_factor": [1.0] * 4,
            "long_factor": [4.0] * 4,
            "original_max_position_embeddings": SWITCH,
        },
    },
    "qwen2-window": {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1},
    "granitemoehybrid-attention": {
        "layer_types": ["full_attention"] * LAYERS,
        "position_embedding_type": "rope",
        "num_local_experts": 0,
    },
    "gemma4_text-experts": {
        "enable_moe_block": True,
        "num_experts": 4,
        "top_k_experts": 2,
        "moe_intermediate_size": 16,
        "num_kv_shared_layers": 2,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
    },
    "qwen2_moe-dense": {"mlp_only_layers": [1]},
    "qwen3_moe-dense": {"mlp_only_layers": [1]},
    "qwen3_next-dense": {"mlp_only_layers": [1]},
    "falcon-alibi": {"alibi": True, "new_decoder_architecture": False},
}
_ENCODER_DECODERS = (
    "bart bigbird_pegasus blenderbot blenderbot-small marian mbart mvp pegasus plbart prophetnet trocr whisper"
)
LEFT_OUT: dict[str, str] = {
    **dict.fromkeys(_ENCODER_DECODERS.split(), "is the decoder of an encoder-decoder"),
    **dict.fromkeys(("cpmant", "xlnet"), "sees later tokens in a plain forward pass"),
    **dict.fromkeys(("musicgen", "musicgen_melody"), "makes sound, and its config has no defaults"),
    **dict.fromkeys(("gemma4_assistant", "gemma4_unified_assistant"), "drafts for another model"),
    "blt": "takes bytes in patches, and generate fails for want of num_hidden_layers",
    "gemma3n": "needs timm for its pictures; its text model is in the table",
}
MOST_USED: tuple[str, ...] = (
    *("llama", "qwen2", "qwen3", "qwen3_moe", "qwen3_next", "qwen3_5_text", "mistral", "mixtral", "gemma2"),
    *("gemma3_text", "gemma4_text", "phi3-longrope", "gpt_oss", "llama4_text", "deepseek_v3", "glm4_moe"),
    *("granitemoehybrid", "falcon_h1", "mamba2", "gpt2"),
)
FAMILIES: tuple[str, ...] = (*(name for name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES if name not in LEFT_OUT), *_VARIANTS)

# Parameters of states that decay: with noise they would grow without bound, or see ahead.
_GENTLE = ("decay", "slope_rate", "A_log", "dt_bias", "dt_proj", "lambda", "recurrent_param", "igate", "fgate")
# Families whose logits are scaled to near nothing at this width: their output weights are multiplied.
_LOUD = {"cohere": 16, "cohere2": 16, "cohere2_moe": 16, "inkling_text": 24}


def tiny_model(family: str, seed: int = 0) -> PreTrainedModel:
    """Return a random model of a family, in float32, in evaluation mode, on the CPU."""
    name = family if family in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES else family.rpartition("-")[0]
    config = _small(getattr(transformers, CONFIG_MAPPING_NAMES[name])(), _VARIANTS.get(family, {}))
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        state = model.state_dict()
        tensors = [*model.named_parameters(), *((n, b) for n, b in model.named_buffers() if n in state)]
        for tensor_name, tensor in tensors:
            if tensor.is_floating_point() and not any(part in tensor_name for part in _GENTLE):
                tensor += 0.1 * torch.randn_like(tensor)
        if name in _LOUD:
            model.get_output_embeddings().weight *= _LOUD[name]
    return model.float().eval()


def _small(config: Any, changes: dict[str, Any]) -> Any:
    """Return a config with small sizes, and with configs of its parts that have small sizes; changes are the text's."""
    text = config.get_text_config(decoder=True)
    values: dict[str, Any] = {}
    for name, value in vars(config).items():
        number = isinstance(value, int) and not isinstance(value, bool)
        if isinstance(value, PreTrainedConfig):
            values[name] = _small(value, changes if value is text else {})
        elif name in _SIZES and (number or isinstance(value, list) or (value is None and name in _FROM_NONE)):
            values[name] = _SIZES[name]
    if "kv_lora_rank" in values:  # latent attention has as many key heads as query heads
        values["num_key_value_heads"] = values["num_attention_heads"]
    values |= _SPECIAL.get(config.model_type, {})
    if text is config:
        values |= {name: value for name, value in changes.items() if name != "rope"}
        if "rope" in changes:
            values["rope_parameters"] = {"rope_theta": 10000.0, **changes["rope"]}
    return type(config)(**values)
