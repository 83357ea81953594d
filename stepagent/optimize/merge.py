"""Merge the adapter into its base, write a model folder, and prove that it says what the adapter said."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from stepagent.checkpoints import load_model
from stepagent.errors import ParityError
from stepagent.optimize.parity import check_equal
from stepagent.optimize.trainer import work_folder


def save_merged(
    accelerator: Any, model: Any, tokenizer: Any, out: Path, probes: Sequence[Sequence[int]]
) -> float:
    """Write `model`, its adapter merged if it has one, to `out` in the precision it was trained in, and
    remove the checkpoints that led to it. Of several processes the main one does it.

    The folder is read back and compared with the unmerged model on `probes`; it gets its final name
    only if they agree. Returns the largest difference in log-probability. Raises ParityError.
    """
    difference = 0.0
    if accelerator.is_main_process:
        difference = _save_merged(model, tokenizer, out, probes)
        shutil.rmtree(work_folder(out), ignore_errors=True)
    accelerator.wait_for_everyone()
    return difference


def _save_merged(model: Any, tokenizer: Any, out: Path, probes: Sequence[Sequence[int]]) -> float:
    part = out.with_name(out.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    merged = deepcopy(model).merge_and_unload() if hasattr(model, "merge_and_unload") else model
    merged.save_pretrained(part)
    tokenizer.save_pretrained(part)
    parameter = next(model.parameters())
    try:
        difference = check_equal(model, load_model(part, parameter.dtype, parameter.device), probes)
    except ParityError as error:
        raise ParityError(
            f"{part}: the merged model is not the trained one: {error}; kept for a look"
        ) from None
    shutil.rmtree(out, ignore_errors=True)
    part.rename(out)
    return difference
