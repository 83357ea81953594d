"""Attention within a pack: every token sees its ancestors in the trie and itself, nothing else.

Three ways with one meaning; a model's attention implementation says which one it takes (`mask_arguments`):

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

TRIE = "stepagent_trie"
_ROWS = 128


class Block(NamedTuple):
    """The rows at positions [start, stop), the ranges of positions that any of them sees (ancestors of the
    first row, then the rows themselves), and `hidden`: [rows, m], True where a row may not attend to one of
    the last m seen positions; all rows see the ones before."""

    start: int
    stop: int
    seen: tuple[tuple[int, int], ...]
    hidden: torch.Tensor


def blocks(end: torch.Tensor) -> tuple[Block, ...]:
    """Cut a forest in preorder into blocks of rows; `end` as in a Pack."""
    found = []
    for start in range(0, len(end), _ROWS):
        stop = min(start + _ROWS, len(end))
        rows = torch.arange(start, stop)
        above = (end[:start] > start).nonzero().flatten()
        seen = torch.cat([above, rows])
        tail = seen[int((end[above] >= stop).sum()) :]
        hidden = ~((tail <= rows[:, None]) & (rows[:, None] < end[tail]))
        breaks = (seen.diff() > 1).nonzero().flatten() + 1
        cuts = pairwise([0, *breaks.tolist(), len(seen)])
        ranges = tuple((int(seen[first]), int(seen[last - 1]) + 1) for first, last in cuts)
        found.append(Block(start, stop, ranges, hidden))
    return tuple(found)


def mask_arguments(model: Any, pack: Any, device: torch.device) -> dict[str, Any]:
    """What the model's forward pass is given so that its attention follows the pack's trie."""
    bare = _bare(model)
    implementation = bare.config._attn_implementation
    if implementation == TRIE:
        return {"trie": blocks(pack.end)}
    if implementation == "flex_attention":
        return {"attention_mask": _block_mask(pack.end.to(device))}
    return {"attention_mask": attention_mask(bare, pack.mask[None, None].to(device))}


def padding(model: Any) -> int:
    """The multiple of tokens that a pack is filled up to: a compiled kernel is made anew for each length."""
    return 128 if _bare(model).config._attn_implementation == "flex_attention" else 1


def _bare(model: Any) -> Any:
    """DistributedDataParallel hides the model's own config."""
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
    """A Transformers attention function: query [1, heads, T, d], key and value [1, kv heads, T, d] ->
    [1, T, heads, d]."""
    if trie is None:
        attended: tuple[torch.Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
        return attended
    if dropout or any(kwargs.get(name) is not None for name in ("softcap", "s_aux", "position_bias")):
        raise TypeError("the trie's attention knows no dropout, soft cap, sink or bias")
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    _, heads, length, size = query.shape
    groups = (query[0] * scaling).view(key.shape[1], -1, length, size)
    output: torch.Tensor = _TrieAttention.apply(groups, key[0], value[0], trie)  # type: ignore[no-untyped-call]
    return output.reshape(1, heads, length, size).transpose(1, 2).contiguous(), None


AttentionInterface.register(TRIE, _attend)


class _TrieAttention(torch.autograd.Function):
    """query [kv heads, group, T, d], scaled; key, value [kv heads, T, d]."""

    @staticmethod
    def forward(ctx: Any, query: Any, key: Any, value: Any, trie: tuple[Block, ...]) -> torch.Tensor:
        output = torch.empty_like(query)
        weights = []
        for block in trie:
            rows = query[:, :, block.start : block.stop]
            scores = torch.bmm(rows.flatten(1, 2), _seen(key, block).transpose(1, 2))
            partly = scores.view(*rows.shape[:3], -1)[..., -block.hidden.shape[1] :]
            partly.masked_fill_(block.hidden, float("-inf"))
            wide = torch.promote_types(scores.dtype, torch.float32)
            weights.append(scores.softmax(-1, dtype=wide).to(scores.dtype))
            output[:, :, block.start : block.stop] = torch.bmm(weights[-1], _seen(value, block)).view_as(rows)
        ctx.save_for_backward(query, key, value, output, *weights)
        ctx.trie = trie
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Any, ...]:
        query, key, value, output, *weights = ctx.saved_tensors
        (gradient,) = gradients
        d_query = torch.empty_like(query)
        d_key, d_value = torch.zeros_like(key), torch.zeros_like(value)
        inner = (gradient * output).sum(-1)
        for block, weight in zip(ctx.trie, weights, strict=True):
            own = slice(block.start, block.stop)
            rows = query[:, :, own]
            flowing = gradient[:, :, own].flatten(1, 2)
            d_scores = torch.bmm(flowing, _seen(value, block).transpose(1, 2))
            d_scores.sub_(inner[:, :, own].flatten(1, 2)[..., None]).mul_(weight)
            d_query[:, :, own] = torch.bmm(d_scores, _seen(key, block)).view_as(rows)
            to_key = torch.bmm(d_scores.transpose(1, 2), rows.flatten(1, 2))
            to_value = torch.bmm(weight.transpose(1, 2), flowing)
            done = 0
            for start, stop in block.seen:
                d_key[:, start:stop] += to_key[:, done : done + stop - start]
                d_value[:, start:stop] += to_value[:, done : done + stop - start]
                done += stop - start
        return d_query, d_key, d_value, None


def _seen(states: torch.Tensor, block: Block) -> torch.Tensor:
    parts = [states[:, start:stop] for start, stop in block.seen]
    return torch.cat(parts, 1) if len(parts) > 1 else parts[0]
