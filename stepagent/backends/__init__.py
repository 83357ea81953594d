"""Backends, one file per way of turning a prompt into n completions."""

BUILTIN = {
    "transformers": "stepagent.backends.transformers:TransformersBackend",
    "openai": "stepagent.backends.openai:openai_backend",
    "scripted": "stepagent.backends.scripted:ScriptedBackend",
}

SCORERS = {
    "prm_classifier": "stepagent.backends.prm:TokenClassificationPrm",
    "prm_tags": "stepagent.backends.prm:TagPrm",
    "prm_pooling": "stepagent.backends.prm_pooling:PoolingPrm",
}
