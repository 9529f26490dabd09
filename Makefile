# Every target makes .venv for itself. It needs Python 3.11 or newer and make, nothing else.

BIN := .venv/bin
# The variable, unlike "-c", also binds the isolated build of the package itself.
INSTALL := PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip --disable-pip-version-check install --quiet
DEMO := .venv/installed-demo
DEV := .venv/installed-dev
NAT := .venv-nat/installed
# What its own extras do not bring: agents on langchain, and greenlet for its web server.
NAT_NEEDS := '.[nat]' 'nvidia-nat[langchain]' greenlet hypothesis pytest

.DEFAULT_GOAL := help
.PHONY: help demo test bench test-nat acceptance-vllm docs check lint types imports format constraints clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(DEMO) ## size the example study
	@$(BIN)/tonnage size examples/support-chatbot.yaml

test: lint types imports ## all checks, then the tests
	@echo "== pytest"
	@$(BIN)/python -m pytest -n auto

bench: $(DEV) ## measure start-up, sizing, search and load against their goals
	@$(BIN)/python -m benchmarks

test-nat: $(NAT) ## the tests that need NeMo Agent Toolkit, in .venv-nat (installs 1.3 GB)
	@echo "== pytest tests/nat"
	@.venv-nat/bin/python -m pytest tests/nat

acceptance-vllm: $(DEV) ## measure vLLM on CPU for a true saturation curve (installs 2 GB)
	@scripts/make-vllm .venv/vllm
	@TONNAGE_VLLM=.venv/vllm/bin/python $(BIN)/python -m pytest tests/acceptance_vllm

docs: $(DEV) ## run every command on the pages and write what it prints into them
	@$(BIN)/python -m tests.docs.refresh

check: lint types imports ## lint, types and import contract, without the tests

lint: $(DEV) ## ruff: rules and formatting
	@echo "== ruff"
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --quiet --check .

types: $(DEV) ## mypy, strict
	@echo "== mypy"
	@$(BIN)/mypy

imports: $(DEV) ## import-linter: data flows down, imports point up
	@echo "== import-linter"
	@$(BIN)/lint-imports --no-logo

format: $(DEV) ## let ruff format and mend what it can
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

constraints: ## install everything anew and pin what came
	@scripts/pin constraints.txt '.[all,dev]' hatchling
	@scripts/pin constraints-nat.txt $(NAT_NEEDS) hatchling

clean: ## remove .venv and every cache
	rm -rf .venv .venv-nat .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@echo "== making .venv"
	@scripts/make-venv .venv

$(DEMO): pyproject.toml constraints.txt | $(BIN)/python
	@echo "== installing tonnage"
	@$(INSTALL) -e .
	@touch $@

# The development install contains the other one.
$(DEV): pyproject.toml constraints.txt | $(BIN)/python
	@echo "== installing tonnage with every extra and the development tools"
	@$(INSTALL) -e '.[all,dev]'
	@touch $@ $(DEMO)

$(NAT): pyproject.toml constraints-nat.txt
	@echo "== installing tonnage with NeMo Agent Toolkit in .venv-nat"
	@scripts/make-venv .venv-nat
	@PIP_CONSTRAINT=constraints-nat.txt .venv-nat/bin/python -m pip --disable-pip-version-check \
	  install --quiet -e $(NAT_NEEDS)
	@touch $@
