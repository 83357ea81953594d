"""Attention within a pack: every token sees its ancestors in the trie and itself, nothing else.

There are three ways with one meaning; a model's attention implementation decides which one it takes
(`mask_arguments`):

trie            (CPU) exact: block by block of rows, each against just the keys and values that it sees
flex_attention  (CUDA) a block mask, so that blocks without an ancestor are skipped
others          one dense mask per pack
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, NamedTuple

import torch
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from stepagent.models.loading import attention_mask
from stepagent.training.recurrence import is_recurrent, trie_arguments

TRIE = "stepagent_trie"
_ROWS = 128  # rows a block


class Block(NamedTuple):
    """The rows at positions [start, stop) of a pack and the keys that they attend to.

    `key_ranges` are the [start, stop) ranges of positions that any of the rows sees, in order: the ancestors
    of the first row, then the rows themselves. `mask` is [rows, m], True where a row may not attend to one
    of the last m of these keys; every row sees all the keys before.
    """

    start: int
    stop: int
    key_ranges: tuple[tuple[int, int], ...]
    mask: torch.Tensor


def blocks(end: torch.Tensor) -> tuple[Block, ...]:
    """Cut a forest in preorder into blocks of at most 128 rows; `end` [T] as in a Pack."""
    parts = []
    for start in range(0, len(end), _ROWS):
        stop = min(start + _ROWS, len(end))
        rows = torch.arange(start, stop)
        # In preorder an earlier position that any row of the block sees is an ancestor of the first row:
        # a subtree is contiguous, so one that holds a later row and began before the block holds the first.
        ancestors = (end[:start] > start).nonzero().flatten()
        keys = torch.cat([ancestors, rows])
        # Ancestors whose subtree covers the whole block need no mask. They come first, since an ancestor's
        # subtree holds those of the ancestors after it; masking the rest alone keeps the mask narrow.
        tail = keys[int((end[ancestors] >= stop).sum()) :]
        mask = ~((tail <= rows[:, None]) & (rows[:, None] < end[tail]))
        # Ranges instead of single positions: slices can be read and added to without an index.
        breaks = (keys.diff() > 1).nonzero().flatten() + 1
        cuts = pairwise([0, *breaks.tolist(), len(keys)])
        ranges = tuple((int(keys[first]), int(keys[last - 1]) + 1) for first, last in cuts)
        parts.append(Block(start, stop, ranges, mask))
    return tuple(parts)


def mask_arguments(model: Any, pack: Any, device: torch.device) -> dict[str, Any]:
    """Return the keyword arguments that make the attention of the model's forward pass follow the trie."""
    core = _unwrap(model)
    states = trie_arguments(pack.end, device) if is_recurrent(core) else {}
    implementation = core.config._attn_implementation
    if implementation == TRIE:
        return {"trie": blocks(pack.end), **states}
    if implementation == "flex_attention":
        return {"attention_mask": _block_mask(pack.end.to(device)), **states}
    return {"attention_mask": attention_mask(core, pack.mask[None, None].to(device)), **states}


def padding(model: Any) -> int:
    """Return the multiple of tokens to fill a pack up to: a compiled kernel is made anew for each length."""
    return 128 if _unwrap(model).config._attn_implementation == "flex_attention" else 1


def _unwrap(model: Any) -> Any:
    """Return the model inside DistributedDataParallel, which hides its config."""
    return getattr(model, "module", model)


def _block_mask(end: torch.Tensor) -> Any:
    from torch.nn.attention.flex_attention import create_block_mask

    def sees(batch: Any, head: Any, row: Any, column: Any) -> Any:
        return (column <= row) & (row < end[column])

    return create_block_mask(sees, None, None, len(end), len(end), device=str(end.device))


def _attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    trie: tuple[Block, ...] | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attend as a Transformers attention function does: query [1, heads, T, d], key and value
    [1, kv heads, T, d] -> [1, T, heads, d]. Without `trie` it is SDPA.

    Raises TypeError for dropout, soft caps, sinks and biases, which the trie's attention does not compute.
    """
    if trie is None:
        output_and_weights: tuple[torch.Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
        return output_and_weights
    if dropout or any(kwargs.get(name) is not None for name in ("softcap", "s_aux", "position_bias")):
        raise TypeError("the trie's attention knows no dropout, soft cap, sink or bias")
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    # Under autocast the rotary embeddings leave queries and keys in float32 beside values in bfloat16.
    query, key = query.to(value.dtype), key.to(value.dtype)
    _, heads, length, size = query.shape
    groups = (query[0] * scaling).view(key.shape[1], -1, length, size)
    output: torch.Tensor = _TrieAttention.apply(groups, key[0], value[0], trie)  # type: ignore[no-untyped-call]
    return output.reshape(1, heads, length, size).transpose(1, 2).contiguous(), None


AttentionInterface.register(TRIE, _attend)


class _TrieAttention(torch.autograd.Function):
    """Exact attention block by block: query [kv heads, group, T, d], already scaled; key and value
    [kv heads, T, d]; output as the query."""

    @staticmethod
    def forward(ctx: Any, query: Any, key: Any, value: Any, trie: tuple[Block, ...]) -> torch.Tensor:
        output = torch.empty_like(query)
        weights = []
        for block in trie:
            rows = query[:, :, block.start : block.stop]
            # The query heads of a group share a key head: as rows of one product, they need no copied keys.
            scores = torch.bmm(rows.flatten(1, 2), _gather(key, block).transpose(1, 2))
            tail_scores = scores.view(*rows.shape[:3], -1)[..., -block.mask.shape[1] :]
            tail_scores.masked_fill_(block.mask, float("-inf"))
            # A softmax sums over many keys: in bfloat16 the sum would lose digits.
            dtype = torch.promote_types(scores.dtype, torch.float32)
            weights.append(scores.softmax(-1, dtype=dtype).to(scores.dtype))
            output[:, :, block.start : block.stop] = torch.bmm(weights[-1], _gather(value, block)).view_as(rows)
        # Keeping the weights for `backward` costs memory only for the keys that rows see, not T x T.
        ctx.save_for_backward(query, key, value, output, *weights)
        ctx.trie = trie
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Any, ...]:
        query, key, value, output, *weights = ctx.saved_tensors
        (gradient,) = gradients
        d_query = torch.empty_like(query)
        d_key, d_value = torch.zeros_like(key), torch.zeros_like(value)
        # The softmax's gradient is w (dw - sum(w dw)), and sum(w dw) = gradient . output: this dot product
        # over d replaces a sum over all keys of a row.
        row_sums = (gradient * output).sum(-1)
        for block, weight in zip(ctx.trie, weights, strict=True):
            span = slice(block.start, block.stop)
            rows = query[:, :, span]
            d_output = gradient[:, :, span].flatten(1, 2)
            d_scores = torch.bmm(d_output, _gather(value, block).transpose(1, 2))
            d_scores.sub_(row_sums[:, :, span].flatten(1, 2)[..., None]).mul_(weight)
            d_query[:, :, span] = torch.bmm(d_scores, _gather(key, block)).view_as(rows)
            block_d_key = torch.bmm(d_scores.transpose(1, 2), rows.flatten(1, 2))
            block_d_value = torch.bmm(weight.transpose(1, 2), d_output)
            # Several blocks see the same ancestor, so its gradients are added up; within a block the ranges
            # do not overlap, so that one addition per range is enough.
            offset = 0
            for start, stop in block.key_ranges:
                d_key[:, start:stop] += block_d_key[:, offset : offset + stop - start]
                d_value[:, start:stop] += block_d_value[:, offset : offset + stop - start]
                offset += stop - start
        return d_query, d_key, d_value, None


def _gather(states: torch.Tensor, block: Block) -> torch.Tensor:
    """Return the keys or values that a block sees, [kv heads, keys, d]."""
    parts = [states[:, start:stop] for start, stop in block.key_ranges]
    return torch.cat(parts, 1) if len(parts) > 1 else parts[0]
