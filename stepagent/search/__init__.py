"""Search strategies, one file each."""

BUILTIN = {"step": "stepagent.search.step:StepSearch"}
