# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
#
# make demo PROMPT="a painting of a cathedral"      draw the four likeliest of 32 pictures with the shipped checkpoint
# make app                                        serve a page in the browser that draws
# make test                                       run the tests; make test-slow runs the long ones
# make test-environments                          draw and train with the oldest and the newest versions
# make quality                                    check the style; make style mends it
# make docs                                       build the site of docs/ into build/site
#
# ARGS="..." adds arguments to the command or to pytest. WORKERS=4 runs the tests in four processes.
# PYTHON=python3.12 is the interpreter of a new .venv.

PYTHON ?= python3
VENV ?= .venv
PROMPT ?= a painting of a cathedral
ARGS ?=
WORKERS ?= 2
BIN := $(VENV)/bin

# The shell reads the prompt from the environment, so that it may hold quotes and dollar signs.
override PROMPT := $(value PROMPT)
export PROMPT

.PHONY: demo app test test-slow test-environments quality style docs clean
.NOTPARALLEL:

demo: $(VENV)/.installed
	$(BIN)/rq-hf generate checkpoints/emoji-64 "$$PROMPT" --num_candidates 32 --ranker likelihood $(ARGS)

app: $(VENV)/.installed-demo
	$(BIN)/python scripts/app.py checkpoints/emoji-64 $(ARGS)

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m "not slow" -n $(WORKERS) --dist loadfile $(ARGS)

test-slow: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m slow $(ARGS)

test-environments: $(VENV)/.installed-dev
	UV=$(BIN)/uv tests/environments.sh

quality: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

style: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.installed-dev
	$(BIN)/mkdocs build --strict --quiet

clean:
	rm -rf build dist src/*.egg-info .pytest_cache .ruff_cache
	find src scripts tests research -type d -name __pycache__ -prune -exec rm -rf {} +

# pip is the last file that venv writes: without it the environment is made again.
$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "rq_hf needs Python 3.11 or newer; name one, as in: make PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# A stamp for each set of extras; a change of setup.py installs again.
$(VENV)/.installed: EXTRAS =
$(VENV)/.installed-demo: EXTRAS = [demo]
$(VENV)/.installed-dev: EXTRAS = [dev]
$(VENV)/.installed $(VENV)/.installed-demo $(VENV)/.installed-dev: setup.py | $(BIN)/pip
	@echo "Installing rq_hf into $(VENV); the first time this takes some minutes."
	$(BIN)/python -m pip install -q -e ".$(EXTRAS)"
	@touch $(VENV)/.installed $@
