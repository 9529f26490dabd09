# Every target makes .venv for itself. It needs Python 3.11 or newer and make, nothing else.

BIN := .venv/bin
# The variable, unlike "-c", also binds the isolated build of the package itself.
INSTALL := PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip --disable-pip-version-check install --quiet
DEMO := .venv/installed-demo
DEV := .venv/installed-dev

.DEFAULT_GOAL := help
.PHONY: help demo test bench docs check lint types imports format constraints clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(DEMO) ## size the example study
	@$(BIN)/tonnage size examples/support-chatbot.yaml

test: lint types imports ## all checks, then the tests
	@echo "== pytest"
	@$(BIN)/python -m pytest -n auto

bench: $(DEMO) ## measure start-up, sizing and search against their goals
	@$(BIN)/python -m benchmarks

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
	@set -e; scratch=$$(mktemp -d); trap 'rm -rf "$$scratch"' EXIT; \
	scripts/make-venv "$$scratch"; \
	"$$scratch/bin/python" -m pip --disable-pip-version-check install --quiet '.[all,dev]' hatchling; \
	{ echo "# Written by 'make constraints' with $$("$$scratch/bin/python" -V)."; \
	  "$$scratch/bin/python" -m pip --disable-pip-version-check freeze \
	    --exclude tonnage --exclude setuptools --exclude wheel; } > "$$scratch/pins"; \
	if grep -vE '^(#|[A-Za-z0-9._-]+==[^ ]+$$)' "$$scratch/pins"; then \
	  echo "constraints: the lines above are not plain pins" >&2; exit 1; fi; \
	cp "$$scratch/pins" constraints.txt; grep -c == constraints.txt | sed 's/$$/ packages pinned/'

clean: ## remove .venv and every cache
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis build dist
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
