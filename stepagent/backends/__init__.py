"""Backends: anything that turns a prompt into n completions."""

BUILTIN = {
    "transformers": "stepagent.backends.transformers:TransformersBackend",
    "scripted": "stepagent.backends.scripted:ScriptedBackend",
}
