"""Load a model for training: quantised if the settings ask for it, and wrapped in a fresh adapter."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from stepagent.config.settings import LoraSettings, TrainSettings
from stepagent.errors import ModelError
from stepagent.models.loading import load_model, pick_dtype


def load_trainable(model: str | Path, settings: TrainSettings, device: torch.device) -> Any:
    """Load `model` with a fresh adapter, or bare for full fine-tuning; on the CPU if FSDP will shard it.

    Raises ModelError for a model that cannot be loaded, unknown targets, 4 bits without CUDA or under FSDP.
    """
    dtype = pick_dtype(settings.dtype, device)
    if settings.lora and settings.lora.quantize and process_shards():
        raise ModelError("lora.quantize: 4-bit weights are not sharded; start without FSDP")
    if process_shards():
        device = torch.device("cpu")
    if settings.lora and settings.lora.quantize:
        return add_adapter(_load_4bit(model, dtype, device), settings.lora)
    if not settings.lora:  # float32: an optimizer's small steps would be lost in half precision
        return load_model(model, torch.float32, device)
    return add_adapter(load_model(model, dtype, device), settings.lora)


def process_shards() -> bool:
    """Return whether accelerate was told to shard the model (FSDP)."""
    return os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true"


def _load_4bit(model: str | Path, dtype: torch.dtype, device: torch.device) -> Any:
    if device.type != "cuda":
        raise ModelError("lora.quantize: 4-bit training needs a CUDA device; set lora.quantize to null")
    if find_spec("bitsandbytes") is None:
        raise ModelError("lora.quantize: 4-bit training needs: pip install bitsandbytes")
    import peft
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    base = load_model(model, dtype, device, quantization_config=config, device_map={"": device})
    prepare: Any = peft.prepare_model_for_kbit_training
    return prepare(base, use_gradient_checkpointing=False)


def add_adapter(model: Any, lora: LoraSettings) -> Any:
    """Wrap `model` in a fresh LoRA adapter; with the adapter switched off it is the reference model.

    Raises ModelError if the targets are not modules of the model.
    """
    from peft import LoraConfig, get_peft_model

    targets = lora.targets if isinstance(lora.targets, str) else list(lora.targets)
    try:
        return get_peft_model(
            model,
            LoraConfig(
                task_type="CAUSAL_LM",
                r=lora.rank,
                lora_alpha=lora.alpha,
                lora_dropout=lora.dropout,
                target_modules=targets,
                use_rslora=lora.variant == "rslora",
                use_dora=lora.variant == "dora",
            ),
        )
    except ValueError as error:
        raise ModelError(f"lora.targets: {str(error).splitlines()[0]}") from None
