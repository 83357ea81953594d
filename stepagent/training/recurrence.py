"""Recurrent layers within a pack: every segment of the trie starts from the state in which its parent ends.

The layers themselves are made to follow a trie by the package tree-recurrence, for the families that it covers.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
import tree_recurrence

from stepagent.models.head import core_of

_STATES = ("linear_attention", "mamba", "conv", "recurrent", "hybrid")  # types of layers


def is_recurrent(model: Any) -> bool:
    """Tell whether some layers of a model carry a state from token to token."""
    core = core_of(model)
    kinds = getattr(core.config.get_text_config(decoder=True), "layer_types", None) or ()
    return getattr(core, "_is_stateful", False) or any(kind in _STATES for kind in kinds)


def follow_tries(model: Any) -> str:
    """Let the recurrent layers of a model follow the tries that `trie_arguments` describes; other passes stay as they
    are. Returns the reason why some cannot, or ""."""
    # it says for each layer that CPUs have no kernels for it
    logging.getLogger("tree_recurrence").setLevel(logging.ERROR)
    follows = tree_recurrence.install(core_of(model)).shares_prefixes
    return "" if follows else "its layers carry a state from token to token"


def trie_arguments(end: torch.Tensor, device: torch.device) -> dict[str, torch.Tensor]:
    """Return the keyword arguments that tell recurrent layers a forest in preorder; `end` [T] as in a Pack."""
    starts, parents = segments(end)
    bounds = torch.tensor([*starts, len(end)], dtype=torch.int32, device=device)
    return {"tree_cu_seqlens_q": bounds, "tree_segment_parents": torch.tensor(parents, device=device)}


def segments(end: torch.Tensor) -> tuple[list[int], list[int]]:
    """Return the first positions of a forest's unbranched segments, and the segment after which each one goes on, -1
    for a root; `end` [T] as in a Pack."""
    # A node goes on with the segment of the one before it if it is its only child: then both subtrees end together.
    starts = [0, *((end[1:] != end[:-1]).nonzero().flatten() + 1).tolist()]
    ends = end[starts].tolist()
    parents: list[int] = []
    path: list[int] = []  # the segments from the root down to the current one
    for segment, start in enumerate(starts):
        while path and ends[path[-1]] <= start:
            path.pop()
        parents.append(path[-1] if path else -1)
        path.append(segment)
    return starts, parents
