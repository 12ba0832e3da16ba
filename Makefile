# Run `make help`. Everything happens in .venv, which is made anew when pyproject.toml changes.

MOUNT ?= /var/lib/pylxcfs
PYTHON ?= $(shell tools/find-python)
#: More arguments for pytest, as in  make test ARGS="tests/unit -k meminfo"
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
SUDO := $(shell [ "$$(id -u)" -eq 0 ] || echo sudo -E)
# Files that root writes into a user's clone are a nuisance.
PYTEST := $(SUDO) $(BIN)/python $(if $(SUDO),-B) -m pytest $(if $(SUDO),-p no:cacheprovider)

.DEFAULT_GOAL := help
.PHONY: help run test demo bench lint format clean packages-run packages-demo \
	packages-test packages-bench

help: ## show this
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-8s %s\n", $$1, $$2}' Makefile
	@echo
	@echo "  MOUNT=DIR      where make run mounts (now $(MOUNT))"
	@echo "  PYTHON=FILE    the Python that .venv is made of (3.11 or newer)"
	@echo "  QUICK=1        benchmarks in a minute instead of eight"
	@echo "  ARGS=...       more arguments for pytest, for the demo and for the benchmarks"

run: $(VENV)/run ## install what is missing and serve the files in the foreground, at MOUNT
	@$(SUDO) mkdir -p "$(MOUNT)"
	@exec $(SUDO) $(BIN)/pylxcfs mount "$(MOUNT)"

test: $(VENV)/dev packages-test ## install what is missing and run every test and linter
	$(PYTEST) $(ARGS)

demo: $(VENV)/run packages-demo ## show free, uptime, lscpu and top in a small container
	@$(SUDO) $(BIN)/python container/demo $(ARGS)

bench: $(VENV)/bench packages-bench ## measure, side by side with C LXCFS and the kernel's files
	$(SUDO) $(BIN)/python -m benchmarks $(if $(QUICK),--quick) $(ARGS)

lint: $(VENV)/dev ## ruff, mypy and the import rules, without the tests
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/dev ## lay out the code as ruff does
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean: ## remove .venv, caches, and the virtual machine's images
	$(SUDO) rm -rf $(VENV) .cache build *.egg-info
	$(SUDO) rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	$(SUDO) find . -name __pycache__ -type d -prune -exec rm -rf {} +

packages-run:
	@tools/system-packages run

packages-demo: packages-run
	@tools/system-packages demo

packages-test: packages-run
	@tools/system-packages demo test

packages-bench: packages-run
	@tools/system-packages demo bench

# A venv whose Python is gone (an upgrade of the distribution) is replaced.
$(BIN)/python: | packages-run
	$(or $(PYTHON),$(error no Python: see above)) -m venv --clear $(VENV)

$(VENV)/run: pyproject.toml $(BIN)/python | packages-run
	$(BIN)/python -m pip install -q --disable-pip-version-check -e .
	@touch $@

$(VENV)/dev: pyproject.toml $(BIN)/python | packages-run
	$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[dev]'
	@touch $@ $(VENV)/run

$(VENV)/bench: pyproject.toml $(VENV)/dev
	$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[dev,bench]'
	@touch $@
