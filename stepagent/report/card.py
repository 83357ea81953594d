"""The cards of a run's model and of its preferences on the Hub, from the same figures as the report."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from stepagent.config.yaml_text import write_yaml
from stepagent.report.again import versions
from stepagent.report.card_facts import CardFacts, made_facts
from stepagent.report.results import COLUMNS, Gain, gains
from stepagent.report.shares import share
from stepagent.report.tree_facts import TreeCounts

_SETTINGS = ("seed", "rounds", "problems_per_round", "generator", "judge", "search", "init", "optimize", "replay")
"""The sections of a config that decide what a model learns."""
_LOCAL = frozenset({"base_url", "command", "api_key_env"})
"""Settings that say where something runs, which is nobody's business."""
_METHOD = """\
[stepagent](https://arxiv.org/abs/2503.03746) made it: the model proposes several next steps for a problem, a judge (by
default the model itself) compares them in both orders, the best step is kept and extended, and the best and the worst
one become a preference pair. Step-wise DPO on these pairs trains the next model. M_0 is the base model, M_1 the first
model that judges, and each round turns M_i into M_{i+1}."""


def model_card(facts: CardFacts, name: str, *, repository: str, data: str | None) -> str:
    """Return the card of the model `name` in `repository`, whose preferences are in the data set `data`."""
    head = {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        **({"base_model": facts.hub_base, "base_model_relation": "finetune"} if facts.hub_base else {}),
        **({"datasets": [data]} if data else {}),
        "tags": ["stepagent", "step-dpo", "self-rewarding"],
    }
    return _document(
        head,
        repository,
        [
            f"{name} of the run `{_run_name(facts)}`, made from {_base_words(facts)}.",
            *_section("How it was made", [_METHOD, *_made(facts, name)]),
            *_section("Results", _results(facts, name)),
            *_section("Limits", _limits(facts, name)),
            *_section("Settings", ["```yaml\n" + write_yaml(_settings(facts.config)).rstrip() + "\n```"]),
            *_section("Files", _files(facts, name, data)),
            *_section("Versions", ["When this card was written: " + _versions() + "."]),
        ],
    )


def data_card(facts: CardFacts, rounds: Sequence[int], *, repository: str, model: str) -> str:
    """Return the card of the data set `repository` with the preferences and trees of `rounds`, which the run of `model`
    made."""
    head = {
        "configs": [{"config_name": "preferences", "data_files": "round_*/preferences.jsonl"}],
        "tags": ["stepagent", "preferences", "step-dpo"],
    }
    table = _table(
        ("round", "searched by", "problems", "levels", "preference pairs"),
        [
            (
                str(number),
                facts.parents.get(f"M_{number + 1}", f"M_{number}"),
                *(f"{count:,}" for count in (counts.trees, counts.levels, counts.pairs)),
            )
            for number in rounds
            if (counts := facts.rounds.get(number, TreeCounts()))
        ],
    )
    return _document(
        head,
        repository,
        [
            f"The step trees and step preferences from which [{model}](https://huggingface.co/{model}) learned.",
            _METHOD,
            *_section("Rounds", [table]),
            *_section(
                "Files",
                [
                    "- `round_I/preferences.jsonl`: a pair a row. `prompt`, `chosen`, `rejected` are the text, the "
                    "fields `*_ids` the very token ids that were sampled; `margin` is the probability that the chosen "
                    "step is the better one.\n"
                    "- `round_I/trees.jsonl`: a problem's whole tree a row, with every vote of the judge and its text. "
                    "Read it line by line as JSON."
                ],
            ),
            *_section(
                "Limits",
                [
                    "- A model wrote the steps and a model judged them: both may be wrong.\n"
                    "- Questions are those of the problems that were searched; their licence goes with them.\n"
                    "- The token ids fit the tokenizer of the base model only."
                ],
            ),
        ],
    )


def _document(head: Mapping[str, Any], title: str, parts: Sequence[str]) -> str:
    return "\n\n".join([f"---\n{write_yaml(dict(head)).rstrip()}\n---", f"# {title.partition('/')[2]}", *parts]) + "\n"


def _section(title: str, parts: Iterable[str]) -> list[str]:
    return [f"## {title}", *parts]


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)


def _run_name(facts: CardFacts) -> str:
    return str(facts.config.get("name") or facts.run.resolve().name)


def _base_words(facts: CardFacts) -> str:
    if facts.hub_base:
        return f"[{facts.base}](https://huggingface.co/{facts.base})"
    return f"`{Path(facts.base).name}`, a model folder that is not on the Hub"


def _line_of(facts: CardFacts, name: str) -> list[str]:
    """Return the models that led to `name`, the first one first, without M_0."""
    line: list[str] = []
    while name in facts.parents and name not in line:
        line.insert(0, name)
        name = facts.parents[name]
    return line


def _made(facts: CardFacts, name: str) -> Iterator[str]:
    rows = []
    for model in _line_of(facts, name):
        number = int(model[2:]) - 1
        facts_of_model = made_facts(facts.run / model)
        counts = facts.rounds.get(number)
        pairs = facts_of_model.get("preference pairs", "? of a round").replace(" of ", " pairs of ", 1)
        data = f"{facts_of_model.get('rows', '?')} rows" if model == "M_1" else pairs
        trees = f"{counts.trees:,}" if counts and model != "M_1" else "–"
        rows.append((model, facts.parents[model], facts_of_model.get("method", "?"), data, trees))
    yield _table(("model", "from", "by", "data", "problems searched"), rows)
    checks = made_facts(facts.run / name)
    if "parity" in checks:
        yield (
            "The weights were read back from disk when they were written: their log-probabilities differ from those "
            f"of the trained model by at most {float(checks['parity']):.2g} nats."
        )


def _results(facts: CardFacts, name: str) -> Iterator[str]:
    line = ["M_0", *_line_of(facts, name)]
    results = [result for result in facts.results if result.name in line and result.shares]
    if not results:
        yield "This model was not evaluated: no figures are known."
        return
    keys = [key for key in COLUMNS if any(key in result.shares for result in results)]
    held_out = Path(_nested(facts.config, "evaluate", "problems", "path") or "held-out problems").name
    yield f"Shares on held-out data (`{held_out}`), with their 95 % intervals (Wilson):"
    yield _table(
        ("model", *(COLUMNS[key] for key in keys)),
        [
            (
                result.name,
                *(share(figure.part, figure.whole) if (figure := result.shares.get(key)) else "–" for key in keys),
            )
            for result in results
        ],
    )
    yield "\n".join(_gain_line(gain) for gain in gains(results))


def _gain_line(gain: Gain) -> str:
    return (
        f"- {gain.name} against {gain.base}, greedily, in points: {100 * gain.gain:+.1f} ({100 * gain.low:+.1f} to "
        f"{100 * gain.high:+.1f}, paired): {gain.won} problems more, {gain.lost} fewer"
    )


def _limits(facts: CardFacts, name: str) -> Iterator[str]:
    judge = _nested(facts.config, "judge", "backend")
    judged = "by another model" if judge else "by the model itself"
    lines = [
        f"The preferences were judged {judged}, not by people: a mistake that the judge makes often is learned.",
        "It was trained on one kind of problems in one form of prompt; other tasks and languages were not measured.",
        "The intervals cover the draw of the held-out problems, not the choice of settings or of the seed.",
        "Nothing was done for its safety: it is as safe as its base model, at best.",
        "The licences of the base model and of the problems go with it.",
    ]
    if name in facts.summary.drifted:
        lines.insert(0, f"It has drifted from M_1: {'; '.join(facts.summary.drifted[name])}.")
    yield "\n".join(f"- {line}" for line in lines)


def _files(facts: CardFacts, name: str, data: str | None) -> Iterator[str]:
    lines = ["The folder is a whole model in Transformers' format."]
    if (facts.run / name / "adapter").is_dir():
        parent = facts.parents.get(name, "M_0")
        lines.append(f"`adapter/` is the same update as a PEFT adapter, for {parent}; the weights beside it hold it.")
    if data:
        lines.append(f"The preferences and step trees of all rounds: [{data}](https://huggingface.co/datasets/{data}).")
    yield "\n".join(f"- {line}" for line in lines)


def _settings(config: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _without_places(config[name]) for name in _SETTINGS if config.get(name) is not None}


def _without_places(value: Any) -> Any:
    """Return settings without addresses, and with the name of each file in place of its path."""
    if isinstance(value, dict):
        return {name: _without_places(inner) for name, inner in value.items() if name not in _LOCAL}
    if isinstance(value, list):
        return [_without_places(inner) for inner in value]
    return Path(value).name if isinstance(value, str) and (Path(value).is_absolute() or _is_file(value)) else value


def _is_file(text: str) -> bool:
    return "/" in text and len(text) < 1000 and "\n" not in text and Path(text).exists()


def _nested(config: Mapping[str, Any], *names: str) -> Any:
    value: Any = config
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _versions() -> str:
    return ", ".join(f"{name} {number}" for name, number in versions().items())
