"""M_2 in the place of M_1: reloaded into the running vLLM engine, against a restart of the server.

    make vllm
    python benchmarks/redeploy.py --json redeploy.json

Both ends are the same: the server answers, its prefix cache is empty, it is proven to serve the other model.
`restart_over_reload` is the ratio of median seconds from the call to the first answer; the proof, which both
need, is timed on its own. Random weights of the given size; run nothing else meanwhile.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

from _bench import make_parser, write_figures
from vllm_world import make_model, make_preferences, serve_settings, train_next

from stepagent.files.jsonl import iter_json
from stepagent.serve.folders import served_folder
from stepagent.serve.proof import make_probes, prove
from stepagent.serve.server import Server
from stepagent.types import ModelVersion


def main() -> None:
    parser = make_parser(__doc__, layers=2, reloads=10, restarts=2, seed=1)
    parser.add_argument("--hidden", type=int, default=64, help="a multiple of 32")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        first = make_model(folder / "M_1", options.seed, options.hidden, layers=options.layers)
        rows = make_preferences(first, folder / "preferences.jsonl")
        second = train_next(first, rows, folder / "M_2")
        sequences = [(*row["prompt_ids"], *row["chosen_ids"]) for _, row in iter_json(rows)]
        models = [first, second]
        start = time.perf_counter()
        probes = [make_probes(sequences, models[i], models[1 - i]) for i in (0, 1)]
        choosing = (time.perf_counter() - start) / 2
        seconds: dict[str, list[float]] = {"reload": [], "restart": [], "proof": []}
        with Server(serve_settings(), folder / "server", lambda _: None) as server:
            server.deploy(ModelVersion.at(str(first)), None, sequences)

            def answer() -> None:
                server.client.logprobs(server.name, sequences[0])

            def time_proof(index: int) -> None:
                start = time.perf_counter()
                proof = prove(probes[index], lambda ids: server.client.logprobs(server.name, ids))
                seconds["proof"].append(time.perf_counter() - start)
                assert proof.outcome == "proven"

            for repeat in range(options.reloads + 1):
                index = 1 - repeat % 2
                start = time.perf_counter()
                server.client.reload(served_folder(models[index]))
                answer()
                if repeat:  # the first one warms up
                    seconds["reload"].append(time.perf_counter() - start)
                time_proof(index)
            for repeat in range(options.restarts):
                start = time.perf_counter()
                server.start(str(models[repeat % 2]))
                answer()
                seconds["restart"].append(time.perf_counter() - start)
                time_proof(repeat % 2)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    ratio = medians["restart"] / medians["reload"]
    for name, values in seconds.items():
        span = f"{min(values):.3f} to {max(values):.3f}, {len(values)} times"
        print(f"{name:8} median {medians[name]:8.3f} s  ({span})")
    print(f"choosing the probes: {choosing:.2f} s")
    print(f"restart over reload: {ratio:.1f}")
    figures = {"restart_over_reload": ratio, "seconds": medians, "choosing_probes_seconds": choosing}
    write_figures(options.json, figures)


if __name__ == "__main__":
    main()
