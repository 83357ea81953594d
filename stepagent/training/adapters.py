"""Load a model for training: quantised if the settings ask for it, and wrapped in a fresh adapter."""

from __future__ import annotations

import inspect
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from stepagent.config.settings import LoraSettings, TrainSettings
from stepagent.errors import ModelError
from stepagent.models.loading import first_line, load_model, pick_dtype
from stepagent.training.environment import process_shards


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
    from peft import LoraConfig

    targets = lora.targets if isinstance(lora.targets, str) else list(lora.targets)
    shared = _shared(model)
    excluded = sorted(_unadaptable(model) | shared) if targets == "all-linear" else None
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=targets,
        exclude_modules=excluded,
        use_rslora=lora.variant == "rslora",
        use_dora=lora.variant == "dora",
    )
    try:
        adapted = adapt(model, config)
    except Exception as error:  # noqa: BLE001 (peft refuses targets and variants with errors of many types)
        raise ModelError(f"lora.targets: {first_line(error)}") from None
    _refuse_shared(adapted, shared)
    return adapted


def adapt(model: Any, config: Any, **options: Any) -> Any:
    """Wrap `model` in a fresh adapter by PEFT's own config; `options` go to PEFT. Raises what PEFT raises."""
    from peft import get_peft_model

    with warnings.catch_warnings():
        # of ranks for experts that another class of the family has, and of tied layers, which `add_adapter` refuses
        warnings.filterwarnings("ignore", module=r"peft\..*")
        return get_peft_model(model, config, **options)


def _unadaptable(model: Any) -> set[str]:
    """Return the names of linear layers that an adapter cannot wrap: those that compute more than a product, and those
    whose weights the code of the module around them reads itself, past the adapter (Mamba's kernels)."""
    names = set()
    for name, module in model.named_modules():
        children = [child for child, layer in module.named_children() if isinstance(layer, torch.nn.Linear)]
        source = inspect.getsource(type(module)) if children else ""
        for child in children:
            if f"self.{child}.weight" in source or not _is_product(module.get_submodule(child)):
                names.add(f"{name}.{child}" if name else child)
    return names


@torch.no_grad()
def _is_product(layer: Any) -> bool:
    """Return whether a layer returns the product with its weight, as a linear layer does: some families derive routers
    and grouped products from it."""
    if not type(layer).__module__.startswith("transformers.models."):
        return True
    inputs = torch.ones(1, 2, layer.in_features, dtype=layer.weight.dtype, device=layer.weight.device)
    try:
        return torch.allclose(layer(inputs), torch.nn.functional.linear(inputs, layer.weight, layer.bias), atol=1e-2)
    except (RuntimeError, TypeError, AttributeError):  # another shape, or more than one tensor
        return False


def _shared(model: Any) -> set[str]:
    """Return the names of layers whose weight is that of another layer, too: merged, an adapter of one would change
    both."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name.rpartition(".")[0])
    return {name for sharing in names.values() if len(sharing) > 1 for name in sharing}


def _refuse_shared(adapted: Any, shared: set[str]) -> None:
    """Raise ModelError if the adapter changes a layer that shares its weight."""
    for name, layer in adapted.named_modules():
        plain = name.removeprefix("base_model.model.")
        if hasattr(layer, "lora_A") and plain in shared:
            raise ModelError(
                f"lora.targets: {plain} shares its weights with another layer, which the merge would change, too; "
                "leave it out, or train all weights (lora: null)"
            )
