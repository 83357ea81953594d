"""Graders, one file per way of checking a solution; `marking.py` marks solutions and counts votes with any of them."""

BUILTIN = {
    "math": "stepagent.graders.math:MathGrader",
    "choice": "stepagent.graders.choice:ChoiceGrader",
    "text": "stepagent.graders.text:TextGrader",
    "number": "stepagent.graders.number:NumberGrader",
    "json": "stepagent.graders.json:JsonGrader",
    "python_tests": "stepagent.graders.python_tests:PythonTestsGrader",
    "environment": "stepagent.graders.environment:EnvironmentGrader",
}
GUARDED = frozenset({"environment"})
"""Kinds that run other people's code, as own classes do: in a process of their own, one for each session."""
