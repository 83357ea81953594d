"""Kind 9: verdicts that are clear to a reader, and those that are not."""

from __future__ import annotations

import re
from collections.abc import Callable

from faults import each_message
from imitation import Twist
from rows import Row, judging, on


def written(form: str) -> Twist:
    """Return the twist of a judge that writes its verdict in this form; X is the better label, Y the other one."""

    def change(text: str) -> str:
        letter = re.search(r"\[\[([AB])\]\]", text)
        assert letter
        other = {"A": "B", "B": "A"}[letter[1]]
        return form.replace("[[x]]", f"[[{letter[1].lower()}]]").replace("X", letter[1]).replace("Y", other)

    return on(judging, each_message(change))


def graded(form: str) -> Twist:
    """Return the twist of a grading judge; N is the grade."""
    return on(judging, each_message(lambda text: form.replace("N", text.rpartition(" ")[2])))


def ranked(form: Callable[[str], str]) -> Twist:
    """Return the twist of a ranking judge: a form of its last line, such as "[2] > [1]"."""
    return on(judging, each_message(lambda text: f"I ranked them.\n{form(text.splitlines()[1])}"))


_CLEAR = {
    "plain": "So [[X]]",
    "bold": "So **[[X]]**",
    "with a full stop": "Verdict: [[X]].",
    "in quotes": 'The verdict is "[[X]]"',
    "in code": "So `[[X]]`",
    "boxed": r"So \boxed{[[X]]}",
    "boxed text": r"So $\boxed{\text{[[X]]}}$",
    "with a Chinese full stop": "所以 [[X]]。",
    "with a Chinese exclamation mark": "所以 [[X]]！",
    "with an exclamation mark": "It is [[X]]!",
    "with an end token": "So [[X]]<|im_end|>",
    "with Llama's end token": "So [[X]]<|eot_id|>",
    "with the old end token": "So [[X]]</s>",
    "in a tag": "<answer>[[X]]</answer>",
    "in a verdict tag": "<verdict> [[X]] </verdict>\n",
    "in small letters": "So [[x]]",
    "with blanks inside": "So [[ X ]]",
    "in round brackets": "(So [[X]])",
    "in a fence": "```\n[[X]]\n```",
    "with an underscore": "So __[[X]]__",
    "after both labels": "[[A]] or [[B]]? I looked at both.\nThe verdict is [[X]]",
    "twice": "[[X]]\n\n[[X]]",
}
_UNCLEAR = {
    "one or the other": "[[X]] or [[Y]]",
    "one and not the other": "[[X]] and not [[Y]]",
    "one, not the other, small": "It is [[X]], not [[Y]].",
    "both with a slash": "[[X]]/[[Y]]",
    "more than the other": "[[X]] > [[Y]]",
    "the label of a question": "Is it [[X]]?",
    "text behind it": "[[X]] is what they would say, but I do not know",
    "no label": "Proposal X is better",
}
_GRADES = {
    "plain": "Score: N",
    "out of ten": "Score: N out of 10",
    "with a slash": "Score: N/10",
    "bold": "**Score:** N",
    "all bold": "**Score: N**",
    "boxed": r"Score: \boxed{N}",
    "in small letters": "score: N",
    "with a Chinese full stop": "Score: N。",
    "with points": "Score: N points",
    "with an end token": "Score: N<|im_end|>",
    "with a decimal comma": "Score: N,0",
    "in brackets": "Score: [[N]]",
}
_RANKINGS: dict[str, Callable[[str], str]] = {
    "plain": str,
    "without brackets": lambda text: text.replace("[", "").replace("]", ""),
    "bold": lambda text: f"**{text}**",
    "boxed": lambda text: rf"\boxed{{{text}}}",
    "with a word before": lambda text: f"Ranking: {text}.",
    "with an end token": lambda text: f"{text}<|im_end|>",
    "escaped for HTML": lambda text: text.replace(">", "&gt;"),
}

VERDICTS = [
    *(
        Row(f"a verdict {name}", 9, written(form), command="judge", items=1, verdicts=("0",))
        for name, form in _CLEAR.items()
    ),
    *(
        Row(f"no verdict: {name}", 9, written(form), command="judge", items=1, verdicts=("unparsed",))
        for name, form in _UNCLEAR.items()
    ),
    *(
        Row(
            f"a grade {name}",
            9,
            graded(form),
            command="judge",
            items=1,
            settings={"judge": {"kind": "pointwise"}},
            verdicts=("0",),
        )
        for name, form in _GRADES.items()
    ),
    *(
        Row(
            f"a ranking {name}",
            9,
            ranked(form),
            command="judge",
            items=1,
            settings={"judge": {"kind": "listwise"}},
            verdicts=("0",),
        )
        for name, form in _RANKINGS.items()
    ),
]
