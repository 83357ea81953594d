"""Check the environment of a training: it may say how processes find each other, and nothing else."""

from __future__ import annotations

import os

from stepagent.errors import ModelError

_TOGETHER = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
_MPI = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")  # accelerate takes them for WORLD_SIZE
_ELSEWHERE = (
    "ACCELERATE_USE_DEEPSPEED",
    "ACCELERATE_USE_MEGATRON_LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG",
    "ACCELERATE_USE_SAGEMAKER",
)
# What accelerate would take from a left-over config of another training, though this one's settings say it.
_SETTINGS = (
    "ACCELERATE_MIXED_PRECISION",
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS",
    "ACCELERATE_USE_CPU",
    "ACCELERATE_TORCH_DEVICE",
    "ACCELERATE_DOWNCAST_BF16",
)


def prepare_environment() -> None:
    """Remove variables that would overrule the settings of a training. Raises ModelError, naming the variable, for
    half of a launcher's variables, and for launchers whose sharding is not known here."""
    present = [name for name in _TOGETHER if os.environ.get(name)]
    ranks = [name for name in present if name in ("WORLD_SIZE", "RANK", "LOCAL_RANK")]
    ranks += [name for name in _MPI if os.environ.get(name, "1") != "1"]
    ranks += ["ACCELERATE_USE_FSDP"] if process_shards() else []
    if ranks and len(present) < len(_TOGETHER):
        missing = next(name for name in _TOGETHER if name not in present)
        raise ModelError(
            f"the environment has {ranks[0]}={os.environ[ranks[0]]} and no {missing}: start several processes with "
            f"torchrun or accelerate launch, or unset {ranks[0]}"
        )
    for name in _ELSEWHERE:
        if os.environ.get(name, "").lower() in ("1", "true", "yes"):
            raise ModelError(f"the environment has {name}: train with DDP or FSDP, or unset it")
    for name in [name for name in os.environ if name in _SETTINGS or name.startswith("ACCELERATE_DYNAMO_")]:
        del os.environ[name]


def process_count() -> int:
    """Return the number of processes that train together (WORLD_SIZE, set by torchrun and accelerate)."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main_process() -> bool:
    """Return whether this is the first of the processes that train together (RANK), or the only one."""
    return os.environ.get("RANK", "0") == "0"


def process_shards() -> bool:
    """Return whether accelerate was told to shard the model (FSDP)."""
    return os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true"
