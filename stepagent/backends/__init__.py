"""Backends: anything that turns a prompt into n completions."""

BUILTIN = {
    "transformers": "stepagent.backends.transformers:TransformersBackend",
    "openai": "stepagent.backends.openai:openai_backend",
    "scripted": "stepagent.backends.scripted:ScriptedBackend",
}
