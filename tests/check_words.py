"""Check the words of the code and the docs: variables that are bare participles or pronouns, and headless sentences.

`python tests/check_words.py` prints `file:line: what` for every place and exits 1 if there is one.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
CODE = ("stepagent", "benchmarks")
PROSE = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "docs")
BARE_NAMES = frozenset(
    """
    again all allowed any asked begun both called done drawn each every few found given got had here held it its kept
    known last_one learned learnt least left less made many mine more most moved named new now old one ones opened
    other others ours own paid put read rest said same seen sent served shown some stopped stuff such taken taught
    that them there these they thing things this those told tried turned used wanted what when where which who
    whose why written
    """.split()  # noqa: SIM905 (one word a line would take a page)
)
"""Names that say how a thing came about or point at it, but not what it is."""
HEADLESS = re.compile(
    r"(?:^|[.;:(] )(?:[Ww]hat|[Ww]ho|[Ww]hoever|[Ww]hatever|[Ww]hose)\b(?![^.?]*\?)|\bso many\b|\bso much\b"
)
"""A clause that opens with what or who and is no question has no noun to say what it is about."""
WIDEST = 120


def bare_names(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield line and name of every assigned variable and parameter that is a bare name."""
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Name)
            and isinstance(node.ctx, ast.Store)
            and node.id.strip("_") in BARE_NAMES
            and not node.id.startswith("__")
        ):
            yield node.lineno, node.id
        elif isinstance(node, ast.arg) and node.arg.strip("_") in BARE_NAMES:
            yield node.lineno, node.arg


def docstrings(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield line and text of every string that stands alone: docstrings of modules, classes, functions and fields."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.lineno, node.value.value


def headless(line: int, text: str) -> Iterator[tuple[int, str]]:
    """Yield line and words of every headless clause in a text that begins at `line`."""
    joined = re.sub(r"\s", " ", text)
    for match in HEADLESS.finditer(joined):
        yield line + text[: match.start()].count("\n"), joined[match.start() : match.start() + 40].strip(" .;:(")


def complaints(path: Path) -> Iterator[tuple[int, str]]:
    """Yield line and sentence for everything in a file that a reader would stumble over."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        tree = ast.parse(text)
        for line, name in bare_names(tree):
            yield line, f"'{name}' does not name a thing; use a noun"
        for line, docstring in docstrings(tree):
            for place, words in headless(line, docstring):
                yield place, f"'{words}...' has no noun; begin with a verb or a noun"
    else:
        prose = re.sub(r"```.*?```", lambda block: "\n" * block[0].count("\n"), text, flags=re.DOTALL)
        for place, words in headless(1, prose):
            yield place, f"'{words}...' has no noun; name the thing"
        for number, line in enumerate(prose.splitlines(), start=1):
            if len(line) > WIDEST and not line.startswith("|") and "](" not in line:
                yield number, f"{len(line)} columns; wrap at {WIDEST}"


def main() -> None:
    places = [ROOT / name for name in (*CODE, *PROSE)]
    files = [file for place in places for file in ([place] if place.is_file() else sorted(place.rglob("*")))]
    found = 0
    for file in files:
        if file.suffix in (".py", ".md"):
            for line, sentence in sorted(complaints(file)):
                print(f"{file.relative_to(ROOT)}:{line}: {sentence}")
                found += 1
    sys.exit(found > 0)


if __name__ == "__main__":
    main()
