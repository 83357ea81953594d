"""Agreement of the grader `environment` with reasoning-gym's own scorers, on right and on wrong answers of every set.

    python benchmarks/grader_agreement.py [--tasks 11]

`tasks` tasks of each data set: its reference answer is the right one, that of the next task the wrong one. The grader
reads it from a solution in steps that ends in \\boxed{...}, and from one that ends in <answer>...</answer>; the scorer
gets the bare answer. It agrees if it says right where the scorer gives 1, and wrong elsewhere.
"""

from __future__ import annotations

import argparse
import contextlib
import io
from collections import Counter

import reasoning_gym
from reasoning_gym.factory import DATASETS

from stepagent.environments import open_environment

FORMS = {"box": "Step 1: think.\nStep 2: so \\boxed{%s}", "tag": "Step 1: think.\n<answer>%s</answer>"}
LEFT_OUT = {"composite": "made of others", "knight_swap": "ten tasks take minutes"}


def count(name: str, tasks: int, counts: Counter[tuple[str, str, bool]]) -> list[str]:
    """Add the agreements of one data set to `counts`; returns a line for each disagreement."""
    library = reasoning_gym.create_dataset(name, size=tasks, seed=1)
    environment = open_environment("reasoning_gym", name, size=tasks, seed=1, config={})
    entries, lines = [library[index] for index in range(tasks)], []
    for index, entry in enumerate(entries):
        answers = {"right": entry["answer"], "wrong": entries[(index + 1) % tasks]["answer"]}
        for kind, answer in answers.items():
            if answer is None or (kind == "wrong" and answer == entry["answer"]):
                continue
            for form, text in FORMS.items():
                expected = library.score_answer(str(answer), entry) > 0.999
                agrees = environment.is_right(index, text % answer) is expected
                counts[kind, form, agrees] += 1
                if not agrees:
                    lines.append(f"{name}, {kind}, {form}: {str(answer)[:60]!r}, the scorer says {expected}")
    return lines


def main(tasks: int) -> None:
    """Print the disagreements, then the counts."""
    counts: Counter[tuple[str, str, bool]] = Counter()
    for name in sorted(DATASETS.keys() - LEFT_OUT.keys()):
        with contextlib.redirect_stdout(io.StringIO()):  # some scorers print
            lines = count(name, tasks, counts)
        print(*lines, sep="\n", end="\n" if lines else "")
    for kind in ("right", "wrong"):
        for form in FORMS:
            agreed = counts[kind, form, True]
            print(f"{kind} answers in a {form}: {agreed} of {agreed + counts[kind, form, False]} agree")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=11)
    main(parser.parse_args().tasks)
