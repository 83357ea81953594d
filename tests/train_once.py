"""Run step-DPO once and write the loss curve: started alone or under torchrun by test_distributed.py."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from stepagent.config import OptimizeSettings
from stepagent.optimize.dpo import optimize


def main() -> None:
    model, data, out, curve, settings = sys.argv[1:6]
    stop_at = int(sys.argv[6]) if len(sys.argv) > 6 else 0
    losses: list[float] = []

    def note(step: int, steps: int, logs: dict[str, float]) -> None:
        losses.append(logs["loss"])
        Path(curve).write_text(json.dumps(losses))
        if step == stop_at:
            sys.exit(9)

    optimize(model, Path(data), Path(out), OptimizeSettings(**json.loads(settings)), 0, note)


if __name__ == "__main__":
    main()
