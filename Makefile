# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
#
# make demo PROMPT="a red heart, twemoji style"   the four likeliest of 32 pictures of the shipped checkpoint
# make app                                        a page in the browser that draws
# make test                                       the tests (test-slow: the long ones)
# make quality | make style                       check | mend the style
# ARGS="..." is handed on to the script or to pytest (make demo ARGS="--num_images 40 --num_candidates 160");
# PYTHON=python3.12 picks the interpreter of a new .venv; WORKERS=4 runs the tests in so many processes, of one thread
# each.

PYTHON ?= python3
VENV ?= .venv
PROMPT ?= a red heart, twemoji style
ARGS ?=
WORKERS ?= 2
BIN := $(VENV)/bin

# The prompt reaches the shell through the environment, so that it may hold quotes and dollar signs.
override PROMPT := $(value PROMPT)
export PROMPT

.PHONY: demo app test test-slow quality style clean
.NOTPARALLEL:

demo: $(VENV)/.installed
	$(BIN)/python scripts/generate.py checkpoints/emoji-64 "$$PROMPT" --num_candidates 32 --ranker likelihood $(ARGS)

app: $(VENV)/.installed-demo
	$(BIN)/python scripts/app.py checkpoints/emoji-64 $(ARGS)

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m "not slow" -n $(WORKERS) --dist loadfile $(ARGS)

test-slow: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m slow $(ARGS)

quality: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

style: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Caches and build products; .venv and the pictures in out/ stay.
clean:
	rm -rf build dist src/*.egg-info .pytest_cache .ruff_cache
	find src scripts tests -type d -name __pycache__ -prune -exec rm -rf {} +

# pip is the last thing that venv writes: where it is missing, the environment is made (again).
$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "rq_hf needs Python 3.11 or newer, and '$(PYTHON)' is not; name another one, as in: make PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# The stamps make a second run start at once; a change of setup.py installs again.
$(VENV)/.installed: setup.py | $(BIN)/pip
	@echo "Installing rq_hf into $(VENV); the first time this takes some minutes."
	$(BIN)/python -m pip install -q -e .
	@touch $@

$(VENV)/.installed-demo: setup.py | $(BIN)/pip
	@echo "Installing rq_hf and the demo's page into $(VENV); the first time this takes some minutes."
	$(BIN)/python -m pip install -q -e ".[demo]"
	@touch $(VENV)/.installed $@

$(VENV)/.installed-dev: setup.py | $(BIN)/pip
	@echo "Installing rq_hf and its development tools into $(VENV); the first time this takes some minutes."
	$(BIN)/python -m pip install -q -e ".[dev]"
	@touch $(VENV)/.installed $(VENV)/.installed-demo $@
