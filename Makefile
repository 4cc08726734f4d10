# One word for each thing to do with a checkout: `make help` lists them.

SHELL := bash
.SHELLFLAGS := -o pipefail -c

VENV := .venv
BIN := $(VENV)/bin
# Interpreter that .venv is made with; to change it later, `make clean` first.
BASE_PYTHON := $(or $(PYTHON),python3)
# Test processes (pytest-xdist). Tests fork processes of their own, so that more is not always faster.
JOBS ?= 2
ARGS ?=

PACKAGES := lambdaml storage cost deploy cli
CHECKED := $(PACKAGES) examples benchmarks tests
EXTRAS := local report ray lambda examples dev
# Servers for the tests of stores that cannot be among .venv's packages: each lives in a folder of its own in .venv.
MINISTACK := tests/storage/ministack.txt
AZURITE := azurite@3.37.0
# Holds the binary of AWS's Runtime Interface Emulator; its command line, which needs much more, is not used.
LAMBDA_EMULATOR := aws-sam-cli==1.170.0
PIP_INSTALL := $(BIN)/python -m pip install --quiet --quiet --no-input --constraint constraints.txt
# Strict: a tree of links in which every folder stands under its own name, so that type checkers see it, too.
EDITABLE := --no-build-isolation --config-settings editable_mode=strict --editable
# From inside .venv, where mypy finds the installed tree and not the checkout's lambdaml/, which is only a part of it.
MYPY := --config-file ../pyproject.toml --cache-dir ../.mypy_cache
AS_IN_CHECKOUT := sed -E 's,^[^:]*/__editable__[^/]*/lambdaml/(storage|cost|cli)/,\1/,; s,^[^:]*/__editable__[^/]*/,,; s,^\.\./,,'

define REQUIREMENTS
import sys, tomllib
project = tomllib.load(open("pyproject.toml", "rb"))["project"]
print(*project["dependencies"], *(r for e in sys.argv[1:] for r in project["optional-dependencies"][e]), sep="\n")
endef
export REQUIREMENTS
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_ROOT_USER_ACTION := ignore

.PHONY: help install demo test lint docs bench soak coverage clean FORCE
.DELETE_ON_ERROR:

help: ## Show this list
	@sed -n 's/^\([a-z]*\):.*## /\1|/p' $(MAKEFILE_LIST) | while IFS='|' read -r name text; do \
		printf '  make %-8s %s\n' "$$name" "$$text"; done

install: $(VENV)/.installed ## Make .venv with everything in it (PYTHON=python3.12 chooses the interpreter)

demo: install ## Train the digits example with four workers over a local S3 server
	@$(BIN)/lambdaml train examples/digits.py:Digits --workers 4 --schedule bsp --store moto://demo/digits \
		--target 'accuracy>=0.95' $(ARGS)

test: install ## Run the tests (JOBS=0 in one process, ARGS='-k lease' selects)
	@$(BIN)/pytest -n $(JOBS) $(ARGS)

lint: install ## Check style, format and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@cd $(VENV) && bin/mypy $(MYPY) --package lambdaml | $(AS_IN_CHECKOUT)
	@cd $(VENV) && bin/mypy $(MYPY) --no-warn-return-any ../examples | $(AS_IN_CHECKOUT)

docs: install ## Build the documentation as a site, into build/site
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

bench: install ## Run every benchmark (see docs/benchmarks.md)
	@set -e; for file in benchmarks/[!_]*.py; do echo "== $$file"; $(BIN)/python "$$file" $(ARGS); done

soak: install ## Run the long tests: minutes of faults, kills and restarts
	@$(BIN)/pytest -m soak -n $(JOBS) $(ARGS)

coverage: install ## Run the tests with coverage measured (slower; ARGS='tests/storage' measures a part)
	@$(BIN)/pytest -n $(JOBS) --cov --cov-report=term --cov-report=html:build/coverage $(ARGS)

clean: ## Remove .venv and everything built
	rm -rf $(VENV) build dist .coverage* *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find $(wildcard $(CHECKED)) -name __pycache__ -type d -prune -exec rm -rf {} +

# Dependencies, when what is asked for has changed; then the project alone, when a file came or went.

$(VENV)/.dependencies: pyproject.toml constraints.txt $(MINISTACK)
	@$(BASE_PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "lambdaml needs Python 3.11 or later: PYTHON=python3.12 make ..."; exit 1; }
	@test -x $(BIN)/pip || { echo "Making $(VENV)"; $(BASE_PYTHON) -m venv --clear $(VENV); }
	@echo "Installing what lambdaml needs into $(VENV) (PyTorch among it: some minutes the first time)"
	@$(BIN)/python -c "$$REQUIREMENTS" $(EXTRAS) > $@.txt
	@$(PIP_INSTALL) --requirement $@.txt
	@echo "Installing servers that the tests of stores run on into $(VENV)"
	@rm -rf $(VENV)/ministack
	@$(BIN)/python -m pip install --quiet --quiet --no-input --no-deps --target $(VENV)/ministack --requirement $(MINISTACK)
	@$(BIN)/python -m pip install --quiet --quiet --no-input --no-deps --target $(VENV)/samcli $(LAMBDA_EMULATOR)
	@if command -v npm > /dev/null; then \
		npm install --prefix $(VENV)/azurite --silent --no-audit --no-fund --ignore-scripts $(AZURITE); \
	else echo "There is no npm: tests of az:// will be skipped"; fi
	@touch $@

$(VENV)/.files: $(VENV)/.dependencies FORCE
	@find $(PACKAGES) \( -name '*.py' -o -name '*.toml' -o -path '*/templates/*' -o -name 'py.typed' \) | LC_ALL=C sort > $@.new
	@if cmp -s $@.new $@; then rm $@.new; else mv $@.new $@; fi

$(VENV)/.installed: $(VENV)/.dependencies $(VENV)/.files
	@echo "Installing lambdaml"
	@$(PIP_INSTALL) --no-deps $(EDITABLE) .
	@touch $@
