# `make quickstart` and `make test` set up everything they need in .venv, then run.
#   make quickstart [SEED=7] [FRESH=1]   train the example; a second call resumes an interrupted run
#   make quickstart-picture              its gain, before and after, drawn into docs/quickstart.svg
#   make quickstart-real [SEED=7]        the same plan for a pretrained model of 135M: an hour or more on 2 cores
#   make test                            lint, types, tests
#   make help                            the other targets
# WORKERS= runs the tests in one process. PYTHON names another interpreter; PIP_ARGS goes to pip (an index of CPU or
# CUDA builds, say).

PYTHON ?= python3
VENV ?= .venv
PIP_ARGS ?=
SEED ?=
FRESH ?=
OUT ?= runs/quickstart
REAL_OUT ?= runs/quickstart-real
REAL_ARGS ?=
WHEEL ?=
PYTEST_ARGS ?=
WORKERS ?= -n 3 --dist worksteal
EXAMPLES ?= 2000

BIN := $(VENV)/bin
TRAIN := $(VENV)/.installed-train
GGUF := $(VENV)/.installed-gguf
DEV := $(VENV)/.installed-dev
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt $(PIP_ARGS)
ARGUMENTS := $(if $(SEED),--seed $(SEED)) $(if $(FRESH),--fresh,--continue)

.DEFAULT_GOAL := help
.PHONY: help quickstart quickstart-picture quickstart-real test lint format types tests sandbox-tests docker-tests browser-tests fuzz bubblewrap chromium clean

help:
	@sed -n 's/^# \{0,1\}//p' Makefile | head -8
	@echo "  make lint | types | tests            the parts of make test"
	@echo "  make sandbox-tests                   of those, the sandbox and the environments that run code in it"
	@echo "  make docker-tests                    the docker sandbox, where a daemon runs or can be started"
	@echo "  make browser-tests                   the pages in Chromium; installs playwright here, and as root Debian's chromium"
	@echo "  make fuzz [EXAMPLES=2000]            random arguments, schemas, messages and results; one second each at most"
	@echo "  make format                          rewrite the code as ruff wants it"
	@echo "  make clean                           remove $(VENV) and caches; runs/ stays"

quickstart: $(TRAIN)
	$(BIN)/agentrl train quickstart.toml --out $(OUT) $(ARGUMENTS)

quickstart-picture: $(TRAIN)
	@folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT && \
	  $(BIN)/agentrl rescore $(OUT) --rubric recorded --stage before --out "$$folder/before" && \
	  $(BIN)/agentrl rescore $(OUT) --rubric recorded --stage after --out "$$folder/after" && \
	  $(BIN)/agentrl compare "$$folder/after" "$$folder/before" --report docs/quickstart.svg

quickstart-real: $(GGUF)
	$(BIN)/python benchmarks/quickstart_real.py --out $(REAL_OUT) $(if $(SEED),--seed $(SEED)) \
	  $(if $(WHEEL),--wheel $(WHEEL)) $(REAL_ARGS)

fuzz: $(DEV)
	AGENTRL_FUZZ=$(EXAMPLES) $(BIN)/python -m pytest $(PYTEST_ARGS) tests/test_fuzz*.py

test: lint types tests

lint: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(DEV)
	$(BIN)/mypy

tests: $(DEV) bubblewrap
	$(BIN)/pytest $(WORKERS) $(PYTEST_ARGS)

sandbox-tests: $(DEV) bubblewrap
	$(BIN)/pytest -m 'sandbox and not docker' $(PYTEST_ARGS)

docker-tests: $(DEV)
	.ci/with-docker $(BIN)/pytest -m docker $(PYTEST_ARGS)

browser-tests: $(DEV) chromium
	$(INSTALL) playwright
	$(BIN)/pytest -m browser $(PYTEST_ARGS) tests/browser

chromium:
	@command -v chromium >/dev/null || { \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium; \
	  else \
	    echo "The browser tests need Chromium and fail without it: sudo apt-get install -y chromium" >&2; \
	  fi; }

bubblewrap:
	@command -v bwrap >/dev/null || { \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    apt-get update -qq && apt-get install -y -qq --no-install-recommends bubblewrap; \
	  else \
	    echo "The sandbox tests need bubblewrap and fail without it: sudo apt-get install -y bubblewrap" >&2; \
	  fi; }

format: $(DEV)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis build agentrl.egg-info

$(BIN)/python:
	@command -v $(PYTHON) >/dev/null || { \
	  echo "There is no '$(PYTHON)' here. Install Python 3.11 or newer, or name one: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "AgentRL needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) -V). Name another: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    apt-get update -qq && apt-get install -y -qq python3-venv; \
	  else \
	    echo "'$(PYTHON)' cannot make virtual environments. On Debian: sudo apt-get install python3-venv" >&2; exit 1; \
	  fi; }
	$(PYTHON) -m venv $(VENV)

$(TRAIN): pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing into $(VENV) (a few minutes the first time)"
	$(INSTALL) -e '.[train]'
	@touch $@

$(GGUF): pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing into $(VENV) (a few minutes the first time)"
	$(INSTALL) -e '.[gguf]'
	@touch $@ $(TRAIN)

$(DEV): pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing into $(VENV) (a few minutes the first time)"
	$(INSTALL) -e '.[dev]'
	@touch $@ $(TRAIN) $(GGUF)
