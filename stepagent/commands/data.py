"""The commands of `stepagent data`: one short function each, a call to a stage."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from stepagent.commands.options import ConfigPath, Model, Overrides
from stepagent.config.loading import load_config
from stepagent.data.cutting import WORDS
from stepagent.errors import ConfigError
from stepagent.types import ModelVersion

data_app = typer.Typer(no_args_is_help=True, help="Make the data of M_1; rows of other projects in and out.")


class ImportTo(StrEnum):
    """The kinds of row that rows of other projects become."""

    pairs = "pairs"
    solutions = "solutions"
    steps = "steps"


class ExportTo(StrEnum):
    """The trainers whose rows are written."""

    trl = "trl"
    trl_conversational = "trl-conversational"
    llama_factory = "llama-factory"
    openrlhf = "openrlhf"
    step_dpo = "step-dpo"
    prm = "prm"
    sft = "sft"


@data_app.command()
def ift(
    config: ConfigPath,
    source: Annotated[str, typer.Option(help="Solutions: JSON, CSV, TSV, Parquet, dataset folder or hub id.")],
    out: Annotated[Path, typer.Option(help="Folder for ift.jsonl and set_aside.jsonl.")],
    question: Annotated[str, typer.Option(help="Column of the questions.")] = "question",
    solution: Annotated[str, typer.Option(help="Column of the solutions.")] = "solution",
    answer: Annotated[
        str | None, typer.Option(help="Column of final answers: keep only solutions that reach theirs.")
    ] = None,
    words: Annotated[
        tuple[int, int],
        typer.Option(
            help="The fewest and the most words of a step that is made of sentences; a shorter end joins the step "
            "before it."
        ),
    ] = WORDS,
    by_model: Annotated[
        bool, typer.Option("--by-model", help="Let the model cut solutions that no rule can; it may change nothing.")
    ] = False,
    model: Model = None,
    overrides: Overrides = None,
) -> None:
    """Cut whole solutions into steps, as the config's generator is to write them."""
    if not 0 < words[0] <= words[1]:
        raise ConfigError(f"--words {words[0]} {words[1]}: give the least, then the most words of a step")
    settings = load_config(config, overrides or ())
    from stepagent.assembly.session import Session
    from stepagent.data.ift import Columns, make_ift

    with Session(settings, out) as session:
        cutter = ModelVersion.at(model or settings.model) if by_model else None
        make_ift(session, source, Columns(question, solution, answer), words=words, model=cutter)


@data_app.command()
def eft(
    config: ConfigPath,
    out: Annotated[Path, typer.Option(help="Folder for eft.jsonl and the test sets; continued if it exists.")],
    model: Model = None,
    overrides: Overrides = None,
) -> None:
    """Search with M_0, label sibling pairs, have them judged in writing, and filter (section 'eft')."""
    settings = load_config(config, overrides or ())
    from stepagent.assembly.session import Session
    from stepagent.data.eft import make_eft

    if settings.eft is None:
        raise ConfigError(f"{config}: no 'eft' section; it names problems and who labels (docs/data.md)")
    with Session(settings, out) as session:
        make_eft(session, settings.eft, ModelVersion.at(model or settings.model))


@data_app.command("import")
def import_command(
    source: Annotated[
        str,
        typer.Argument(
            help="Step-DPO, TRL preference or stepwise rows, PRM800K, Math-Shepherd, ProcessBench: a file, "
            "dataset folder or hub id[:split]."
        ),
    ],
    to: Annotated[
        ImportTo,
        typer.Option(help="Labelled pairs; solutions without a wrong step (for data ift); labelled steps."),
    ],
    out: Annotated[Path, typer.Option(help="JSONL file to write.")],
) -> None:
    """Turn rows of other projects into labelled pairs, solutions or labelled steps."""
    from stepagent.data.convert import import_rows

    import_rows(source, to.value, out)


@data_app.command()
def export(
    source: Annotated[Path, typer.Argument(help="preferences.jsonl; for prm and sft: trees.jsonl.")],
    to: Annotated[ExportTo, typer.Option(help="The trainer, one of those above.", metavar="TRAINER")],
    out: Annotated[Path, typer.Option(help="JSONL file to write.")],
    end: Annotated[
        str | None,
        typer.Option(help="Text of the model's end-of-turn token, for trainers that add none."),
    ] = None,
) -> None:
    """Write step preferences or trees for another trainer.

    trl: appends the end-of-turn token to every step, also to one that does not end the solution.

    trl-conversational: adds nothing (rows bring a chat template that passes text through): trains the same tokens
    as stepagent.

    llama-factory: adds nothing with 'template: empty'; cuts long prompts at their end, the newest steps.

    openrlhf: strips line ends and always appends EOS.

    step-dpo: adds no EOS; puts the question into a template of its own.

    prm: trees -> {prompt, completions, labels}, a step right if its value is 0.5 or more.

    sft: trees -> {prompt, completion, question, steps} of the kept paths; EOS belongs there.
    """
    from stepagent.data.convert import export_rows

    export_rows(source, to.value, end, out=out)
