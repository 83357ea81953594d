"""Run step-DPO once and write the loss curve: started alone or under torchrun by test_distributed.py."""

from __future__ import annotations

import json
import os
import resource
import sys
from pathlib import Path

from stepagent.config.settings import OptimizeSettings
from stepagent.training.dpo import optimize_model


def let_accelerate_shard_on_a_cpu() -> None:
    """accelerate keeps FSDP2 to accelerators; torch does not, and nothing else here depends on the device."""
    import accelerate.state
    from accelerate.utils import DistributedType

    usual = accelerate.state.AcceleratorState.__init__

    def init(self: object, *args: object, **kwargs: object) -> None:
        usual(self, *args, **kwargs)
        if plugin := kwargs.get("fsdp_plugin"):
            self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, plugin

    accelerate.state.AcceleratorState.__init__ = init


def main() -> None:
    if os.environ.get("ACCELERATE_USE_FSDP"):
        let_accelerate_shard_on_a_cpu()
    model, data, out, curve, settings = sys.argv[1:6]
    stop_at = int(sys.argv[6]) if len(sys.argv) > 6 else 0
    largest_file = int(sys.argv[7]) if len(sys.argv) > 7 else 0
    losses: list[float] = []

    class Curve:
        """A monitor that writes the curve down, stops the process or fills the disk."""

        def step(self, step: int, steps: int, metrics: dict[str, float]) -> None:
            losses.append(metrics["loss"])
            Path(curve).write_text(json.dumps(losses))
            if step == stop_at:
                sys.exit(9)
            if step == 3 and largest_file:  # a full disk from here on
                resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))

        def warn(self, warning: str) -> None: ...

    optimize_model(
        model,
        Path(data),
        Path(out),
        settings=OptimizeSettings(**json.loads(settings)),
        seed=0,
        monitor=Curve(),
    )


if __name__ == "__main__":
    main()
