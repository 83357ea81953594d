"""Real problems as data for the circle: solutions in lines, pairs of a right and a wrong line, problems apart.

Word problems (MAWPS, ASDiv-A and SVAMP as CSV: `numberK` in the question stands for the K-th of Numbers, Equation is in
prefix form) get one calculation a line; GSM8K (JSONL) keeps its human lines. Both close with `#### answer`.

    python benchmarks/real_data.py word_problems --source FOLDER --out data/word_problems
    python benchmarks/real_data.py gsm8k --source FOLDER --out data/gsm8k

FOLDER holds word_problems_train.csv and word_problems_test.csv (github.com/arkilpatel/SVAMP), or gsm8k_train.jsonl and
gsm8k_test.jsonl (github.com/openai/grade-school-math).
"""

from __future__ import annotations

import argparse
import csv
import json
import operator
import random
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from stepagent.files.jsonl import write_rows
from stepagent.files.rows import IftRow
from stepagent.types import Problem, StepPair

_OPERATORS: dict[str, Callable[[float, float], float]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
}
_DIGITS = r"\d+(?:,\d{3})*(?:\.\d+)?"
_NUMBER = re.compile(_DIGITS)
_OPERAND = rf"(-?{_DIGITS}(?:e[-+]\d+)?)"
_CALCULATION = re.compile(rf"{_OPERAND} ([-+*/]) {_OPERAND} = {_OPERAND}")


@dataclass(frozen=True, slots=True)
class Solved:
    """A problem and the lines of its solution, the last of which states the answer."""

    question: str
    lines: tuple[str, ...]
    answer: str


def read_word_problems(path: Path) -> Iterator[Solved]:
    """Yield the problems of a CSV whose equation gives their answer."""
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            numbers = [_number(float(text)) for text in row["Numbers"].split()]
            question, equation = _with_numbers(row["Question"], numbers), _with_numbers(row["Equation"], numbers)
            lines: list[str] = []
            try:
                value = _calculate(iter(equation.split()), lines)
            except (ZeroDivisionError, ValueError):
                continue
            if lines and abs(float(value) - float(row["Answer"])) < 0.01:
                yield Solved(re.sub(r"\s+([.,?!])", r"\1", question).strip(), (*lines, f"#### {value}"), value)


def _with_numbers(text: str, numbers: Sequence[str]) -> str:
    """Return a text with its numbers in their places."""
    return re.sub(r"number(\d+)", lambda match: numbers[int(match[1])], text)


def _calculate(tokens: Iterator[str], lines: list[str]) -> str:
    """Return the value of an expression in prefix form; the calculations on the way are added to `lines`."""
    token = next(tokens)
    if token not in _OPERATORS:
        return _number(float(token))
    first, second = _calculate(tokens, lines), _calculate(tokens, lines)
    value = _number(_OPERATORS[token](float(first), float(second)))
    lines.append(f"{first} {token} {second} = {value}")
    return value


def _number(value: float) -> str:
    return f"{round(value, 4):.10g}"


def read_gsm8k(path: Path) -> Iterator[Solved]:
    """Yield the problems of a GSM8K file, without its calculator marks."""
    for text in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(text)
        lines = tuple(line for line in re.sub(r"<<.*?>>", "", row["answer"]).splitlines() if line.strip())
        yield Solved(row["question"].strip(), lines, lines[-1].removeprefix("#### "))


def wrong_line(line: str, numbers: Sequence[str], rng: random.Random) -> str | None:
    """Return a line that is wrong where `line` is right: another operator, another number, or a slip in the result.
    Of a line that is no calculation with two numbers, the last number is changed. None if nothing can be."""
    if match := _CALCULATION.fullmatch(line):
        first, sign, second, value = match.groups()
        kinds = ["operator", "operator", "number", "slip"]
        kind = rng.choice(kinds)
        if kind == "operator":
            sign = rng.choice([name for name in _OPERATORS if name != sign])
        elif kind == "number":
            second = rng.choice([number for number in numbers if _value(number) != _value(second)] or [first])
        if kind == "slip":
            result = _slip(value, rng)
        elif sign == "/" and _value(second) == 0:
            return None
        else:
            result = _number(_OPERATORS[sign](_value(first), _value(second)))
        return None if _value(result) == _value(value) else f"{first} {sign} {second} = {result}"
    places = list(_NUMBER.finditer(line))
    if not places:
        return None
    last = places[-1]
    choices = [number for number in numbers if _value(number) != _value(last[0])]
    instead = rng.choice(choices or [_slip(last[0], rng)])
    value = instead if line.startswith("####") else _slip(last[0], rng)
    return f"{line[: last.start()]}{value}{line[last.end() :]}"


def _slip(value: str, rng: random.Random) -> str:
    """Return a number near another one."""
    number = _value(value)
    return _number(number + rng.choice([1, 2, 10, 100, -1 if number > 1 else 5]))


def _value(number: str) -> float:
    return float(number.replace(",", ""))


def pairs_of(solved: Solved, rng: random.Random) -> Iterator[StepPair]:
    """Yield a pair for one line of a solution in both orders, with a judgement that writes the right line first."""
    place = rng.randrange(len(solved.lines))
    right = solved.lines[place]
    wrong = wrong_line(right, _NUMBER.findall(solved.question), rng)
    if wrong is None:
        return
    prefix = tuple(f"{line}\n" for line in solved.lines[:place])
    judgement = f"The next line is: {right}\nThat is {{}}. [[{{}}]]"
    first = StepPair(solved.question, prefix, right, wrong, "first", judgement.format("A", "A"), margin=1.0)
    yield first
    yield StepPair(solved.question, prefix, wrong, right, "second", judgement.format("B", "B"), margin=1.0)


def write_data(
    train: Iterable[Solved], test: Iterable[Solved], out: Path, *, sft: int, validation: int, same_kind: int, seed: int
) -> None:
    """Write to the folder `out`: ift.jsonl and eft.jsonl (of `sft` problems), validation.jsonl (as many more, to
    choose settings on), problems.jsonl (the rest of `train`), held_out.jsonl (`same_kind` more, with ids same-K, and
    all of `test`, with ids test-K), and pairs.jsonl (labelled pairs of problems of `test`)."""
    rng = random.Random(seed)
    tested = list(test)
    held_out = {solved.question for solved in tested}
    pool = [
        solved for solved in {solved.question: solved for solved in train}.values() if solved.question not in held_out
    ]
    rng.shuffle(pool)
    examples, remainder = pool[:sft], pool[sft:]
    ends = len(remainder) - validation, len(remainder) - validation - same_kind
    searches, unseen, validated = remainder[: ends[1]], remainder[ends[1] : ends[0]], remainder[ends[0] :]
    out.mkdir(parents=True, exist_ok=True)
    write_rows(out / "ift.jsonl", [IftRow(s.question, "\n".join(s.lines), answer=s.answer) for s in examples])
    write_rows(out / "eft.jsonl", [pair for solved in examples for pair in pairs_of(solved, rng)])
    write_rows(out / "problems.jsonl", _problems(searches))
    write_rows(out / "validation.jsonl", _problems(validated))
    write_rows(out / "held_out.jsonl", [*_problems(unseen, "same-"), *_problems(tested, "test-")])
    pairs = [pair for solved in tested for pair in pairs_of(solved, rng)]
    write_rows(out / "pairs.jsonl", pairs[: 2 * 200 : 2])


def _problems(solved: Sequence[Solved], prefix: str = "") -> list[Problem]:
    return [Problem(f"{prefix}{place}", item.question, item.answer) for place, item in enumerate(solved)]


_READERS: dict[str, tuple[Callable[[Path], Iterator[Solved]], str]] = {
    "word_problems": (read_word_problems, "csv"),
    "gsm8k": (read_gsm8k, "jsonl"),
}


def make_data(task: str, source: Path, out: Path, **sizes: int) -> None:
    """Write the files of a task (`word_problems` or `gsm8k`) from the folder `source` to the folder `out`: `sizes` are
    those of `write_data`, and its seed."""
    reader, ending = _READERS[task]
    train, test = (list(reader(source / f"{task}_{part}.{ending}")) for part in ("train", "test"))
    write_data(train, test, out, **sizes)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("task", choices=_READERS)
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sft", type=int, default=800, help="problems for SFT; the rest are searched")
    parser.add_argument("--validation", type=int, default=200, help="problems to choose settings on")
    parser.add_argument("--same-kind", type=int, default=500, help="training problems that are held out, too")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    sizes = {key: getattr(options, key) for key in ("sft", "validation", "same_kind", "seed")}
    make_data(options.task, options.source, options.out, **sizes)
