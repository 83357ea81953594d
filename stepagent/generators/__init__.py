"""Generators, which ask for a step and say where it ends."""

BUILTIN = {"sample": "stepagent.generators.sample:SampleGenerator"}
