"""Attention of a running batch: one new token of each row against all that the row holds.

Transformers' SDPA copies the keys and values of grouped heads once for each query head as soon as there is a mask,
which can take longer than the rest of the model. Here the query heads of a group stand where a kernel has tokens.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

BATCH = "stepagent_batch"


def _attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **arguments: Any,
) -> tuple[torch.Tensor, None]:
    """Return what SDPA does for queries [rows, heads, tokens, width], keys and values [rows, groups, length, width]
    and a boolean mask [rows, 1, tokens, length]: [rows, tokens, heads, width of the values]."""
    if attention_mask is None or attention_mask.dtype != torch.bool:
        output: tuple[torch.Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **arguments
        )
        return output
    if query.shape[2] > 1:
        mixed = scaled_dot_product_attention(query, key, value, attention_mask, scale=scaling, enable_gqa=True)
        return mixed.transpose(1, 2), None
    rows, heads, _, width = query.shape
    groups = key.shape[1]
    grouped = query.reshape(rows, groups, heads // groups, width)
    mask = attention_mask.expand(rows, 1, heads // groups, key.shape[2])
    mixed = scaled_dot_product_attention(grouped, key, value, mask, scale=scaling)
    return mixed.reshape(rows, 1, heads, value.shape[-1]), None


AttentionInterface.register(BATCH, _attend)
