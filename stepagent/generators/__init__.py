"""Generators: how a step is asked for and where it ends."""

BUILTIN = {"sample": "stepagent.generators.sample:SampleGenerator"}
