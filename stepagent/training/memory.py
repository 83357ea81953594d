"""Memory of a training: how much it will take, and how freed memory is kept for the next step."""

from __future__ import annotations

import ctypes
import gc
from typing import Any

import torch

from stepagent.config.settings import TrainSettings
from stepagent.models.head import rows_a_chunk

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # mallopt's parameters, from malloc.h
_LARGEST = 2**31 - 1
_MMAP = 2**25  # bytes, the most that glibc itself goes up to


def keep_freed_memory() -> None:
    """Make glibc keep freed memory for the next tensor. By default it returns every large block to the
    system, and fetching it again, page by page, can take a quarter of a training step's time. Without glibc
    nothing happens."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt(_TRIM_THRESHOLD, _LARGEST)
    mallopt(_TOP_PAD, 2**26)
    mallopt(_MMAP_THRESHOLD, _MMAP)


def give_back_memory() -> None:
    """Return all freed memory to the system, and large blocks from now on, for when a training is over: a search would
    come on top."""
    gc.collect()  # a trainer, its model and its callbacks hold each other
    try:
        libc = ctypes.CDLL(None)
        mallopt, trim = libc.mallopt, libc.malloc_trim
    except (OSError, AttributeError):
        return
    mallopt(_TRIM_THRESHOLD, 2 * _MMAP)  # as glibc itself would have it by now
    trim(0)


def pack_budget(settings: TrainSettings, device: torch.device) -> int:
    """Return the number of tokens that a pack may hold. A CPU is as fast with small packs, whose activations stay in
    its cache, as CUDA is with large ones."""
    return settings.token_budget or (4096 if device.type == "cuda" else 1024)


def training_memory(model: Any, settings: TrainSettings, budget: int) -> dict[str, float]:
    """Return the memory (bytes) that a training in packs of `budget` tokens will take at most, by purpose. Activations
    are estimated as in arXiv 2205.05198, section 4.1, without attention scores: 17 hidden states a layer and token."""
    text = model.config.get_text_config(decoder=True)
    width, layers, vocabulary = int(text.hidden_size), int(text.num_hidden_layers), int(text.vocab_size)
    tensors = list(model.parameters())
    computed = max(2, min(tensor.element_size() for tensor in tensors))
    adapted = sum(tensor.numel() for tensor in tensors if tensor.requires_grad)
    states = 1 if settings.gradient_checkpointing else 17
    return {
        "weights": sum(tensor.numel() * tensor.element_size() for tensor in tensors),
        "gradients and optimizer": adapted * (4 + 8),
        "activations of a pack": budget * width * (layers * states + 17) * computed,
        # logits, their log-softmax and its gradient, in float32
        "logits of a chunk": min(budget, rows_a_chunk(vocabulary)) * vocabulary * 4 * 3,
    }
