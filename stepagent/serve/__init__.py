"""A vLLM server beside the run: start it, give it a model, prove which one it serves. vLLM is a process."""
