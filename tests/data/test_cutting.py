"""Solutions cut into the steps that a reader would see."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stepagent.data.cutting import cut, joins_to, visible

MARKED = [
    "**Step 1: Add**\nWe add.\n\n**Step 2: Double**\nWe double: 10.",
    "**1. Add**\nWe add.\n\n**2. Double**\nWe double: 10.",
    "### 1. Add\nWe add.\n### 2. Double\nWe double: 10.",
]
TITLES = ["### Step 1\nWe add.\n### Step 2\nWe double: 10.", "Step 1\nWe add.\nStep 2\nWe double: 10.",
          "**Step 1**\nWe add.\n**Step 2**\nWe double: 10.", "Step 1) We add.\nStep 2) We double: 10.",
          "Step 1 - We add.\nStep 2 - We double: 10.", "1. We add.\n2. We double: 10."]  # fmt: skip
CASES = [
    *((text, ["Add\nWe add.", "Double\nWe double: 10."], "marked") for text in MARKED),
    *((text, ["We add.", "We double: 10."], None) for text in TITLES),
    ("Étape 1 : On ajoute.\nÉtape 2 : On double.", ["On ajoute.", "On double."], "marked"),
    ("Two things.\n\nThey are:\n1. x = 3\n2. y = 4\n\nNow 7.\n\nSo 7.",
     ["Two things.", "They are:\n1. x = 3\n2. y = 4", "Now 7.", "So 7."], "paragraphs"),
    ("1. Add.\n2. Double.\n3. So 7.\n\nThe answer is 7.", ["Add.", "Double.", "So 7.", "The answer is 7."], "numbered"),
    ("So $x = 3\n+ 4$ which is 7.\nThus $x=7$.", ["So $x = 3\n+ 4$ which is 7.", "Thus $x=7$."], "lines"),
    ("We have \\(x =\n1\\) here.\nSo x = 1.", ["We have \\(x =\n1\\) here.", "So x = 1."], "lines"),
    ("We draw it.\n[asy]\nsize(1);\n\ndraw(a);\n[/asy]\nThe area is 5.",
     ["We draw it.\n[asy]\nsize(1);\n\ndraw(a);\n[/asy]", "The area is 5."], "lines"),
    ("We run:\n~~~\na = 1\n\nprint(a)\n~~~\n\nSo 1.", ["We run:\n~~~\na = 1\n\nprint(a)\n~~~", "So 1."], "paragraphs"),
    ("a = 1\n\n\\[ x = 1 \\]\n\nb is 2", ["a = 1\n\\[ x = 1 \\]", "b is 2"], "paragraphs"),
    ("We have\n\\begin{align}\na &= 1\\\\\n\nb &= 2\n\\end{align}\nSo 3.",
     ["We have\n\\begin{align}\na &= 1\\\\\n\nb &= 2\n\\end{align}", "So 3."], "lines"),
    ("<think>\nMaybe 5?\n\nNo.\n</think>\n\nStep 1: Add.\nStep 2: So 7.", ["Add.", "So 7."], "marked"),
    ("We add.\r\nThat is 5.\r\n\r\nWe double.\r\nSo 10.", ["We add.\nThat is 5.", "We double.\nSo 10."], "paragraphs"),
    ("2+2 = $<<2+2=4>>4\n4*2 = $<<4*2=8>>8\n#### 8", ["2+2 = $<<2+2=4>>4", "4*2 = $<<4*2=8>>8\n#### 8"], "lines"),
    ("He paid $3 for it.\nShe paid $5.\nIn all $8.", ["He paid $3 for it.", "She paid $5.", "In all $8."], "lines"),
    ("### Setup\n\nWe set.\n\n### Result\n\nSo 5.", ["### Setup\nWe set.", "### Result\nSo 5."], "paragraphs"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "steps", "rule"), CASES)
def test_the_steps_that_a_reader_sees(text: str, steps: list[str], rule: str | None) -> None:
    pieces = cut(text)
    assert pieces is not None
    assert pieces[0] == steps
    assert rule in (None, pieces[1])
    assert joins_to(pieces[0], text)


def test_an_abbreviation_ends_no_sentence() -> None:
    first = f"Each of the {'very ' * 30}old men has 4 apples."
    second = "Then Mr. Brown and Dr. White take away e.g. half of all the apples, so 42 are left for them."
    assert cut(f"{first} {second}") == ([first, second], "sentences")


@pytest.mark.parametrize("text", ["", "One line only.", "x", "```\na\n\nb\n```", "$$\na\n\nb\n$$"])
def test_a_text_of_one_piece_shows_no_steps(text: str) -> None:
    assert cut(text) is None


ENDS = ["\n", "\n\n", " ", "\r\n"]
PIECES = [
    "We add 2 and 3.", "So $x = 5$.", "\\[ y = x^2 \\]", "1. First of all", "2. Then", "### Step 1", "Step 2: more",
    "**Step 3: bold**", "```\ncode()\n\nmore()\n```", "#### 72", "e.g. Mr. Brown", "It costs $5 and $6.",
    "\\begin{cases}a\n\nb\\end{cases}", "- item", "(3) third", "He said: \"Yes.\" Then he left.",
]  # fmt: skip


@settings(max_examples=500, deadline=None)
@example([("1. First of all", "\n"), ("2. Then", "\n"), ("```\ncode()\n\nmore()\n```", "\n")])
@given(st.lists(st.tuples(st.sampled_from(PIECES), st.sampled_from(ENDS)), min_size=1, max_size=9))
def test_a_cut_loses_and_invents_no_character(pieces: list[tuple[str, str]]) -> None:
    text = "".join(piece + end for piece, end in pieces)
    cuts = cut(text)
    if cuts is not None:
        assert joins_to(cuts[0], text)
        letters = re.sub(r"[^a-zA-Z$\\{}]", "", visible(text))
        kept = re.sub(r"[^a-zA-Z$\\{}]", "", "".join(cuts[0]))
        assert kept.replace("Step", "") == letters.replace("Step", "")
        for step in cuts[0]:
            assert step.count("```") % 2 == 0
            assert step.count("\\[") == step.count("\\]")
            assert step.count("\\begin{cases}") == step.count("\\end{cases}")


@pytest.mark.parametrize(
    "marks",
    [
        ("Step one: ", "Step two: "),
        ("STEP 1: ", "STEP 2: "),
        ("Step #1: ", "Step #2: "),
        ("(Step 1) ", "(Step 2) "),
        ("*Step 1*: ", "*Step 2*: "),
        ("__Step 1__: ", "__Step 2__: "),
        ("> Step 1: ", "> Step 2: "),
        ("- **Step 1**: ", "- **Step 2**: "),
        ("Step 1.", "Step 2."),
        ("步骤1：", "步骤2："),
        ("第1步：", "第2步："),
        ("### Schritt 1\n", "### Schritt 2\n"),
    ],
)
@pytest.mark.parametrize("gap", ["\n", "\n\n"])
def test_the_marks_of_authors(marks: tuple[str, str], gap: str) -> None:
    text = f"{marks[0]}We add 2 and 3.{gap}{marks[1]}We double.\nStep 3 is not a mark here."
    cuts = cut(text)
    assert cuts == (["We add 2 and 3.", "We double.\nStep 3 is not a mark here."], "marked")
    assert joins_to(cuts[0], text)
