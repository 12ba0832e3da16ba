# Run `make help`. All targets use .venv, which is updated when pyproject.toml changes.

MOUNT ?= /var/lib/pylxcfs
PYTHON ?= $(shell tools/find-python)
#: More arguments for pytest, as in  make test ARGS="tests/unit -k meminfo"
ARGS ?=

comma := ,
VENV := .venv
BIN := $(VENV)/bin
SUDO := $(shell [ "$$(id -u)" -eq 0 ] || echo sudo -E)
# As root, Python writes no files into the clone of a user.
PYTEST := $(SUDO) $(BIN)/python $(if $(SUDO),-B) -m pytest $(if $(SUDO),-p no:cacheprovider)

.DEFAULT_GOAL := help
.PHONY: help run test test-kubernetes demo bench lint format bundle image clean packages-run \
	packages-demo packages-test packages-image packages-kubernetes packages-bench

help: ## show this text
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-15s %s\n", $$1, $$2}' Makefile
	@echo
	@echo "  MOUNT=DIR      where make run mounts (now $(MOUNT))"
	@echo "  PYTHON=FILE    the Python for .venv (3.11 or newer)"
	@echo "  QUICK=1        benchmarks in two minutes instead of eleven"
	@echo "  ARGS=...       more arguments for pytest, for the demo and for the benchmarks"

run: $(VENV)/run ## install missing packages and serve the files at MOUNT, in the foreground
	@$(SUDO) mkdir -p "$(MOUNT)"
	@exec $(SUDO) $(BIN)/pylxcfs mount "$(MOUNT)"

test: $(VENV)/dev packages-test ## install missing packages and run all tests and linters
	$(PYTEST) $(ARGS)

# The first time it builds Kubernetes: six minutes and 3 GB, of which 500 MB stay in .cache.
test-kubernetes: export PYLXCFS_REQUIRE := $(if $(PYLXCFS_REQUIRE),$(PYLXCFS_REQUIRE)$(comma))kubernetes
test-kubernetes: $(VENV)/kubernetes packages-kubernetes ## run the tests that need a cluster
	tools/fetch-kubernetes .cache/kubernetes
	$(PYTEST) tests/kubernetes $(ARGS)

demo: $(VENV)/run packages-demo ## show free, uptime, lscpu and top in a container with limits
	@$(SUDO) $(BIN)/python container/demo $(ARGS)

bench: $(VENV)/bench packages-bench ## compare with C LXCFS and the kernel's own files
	$(SUDO) $(BIN)/python -m benchmarks $(if $(QUICK),--quick) $(ARGS)

lint: $(VENV)/dev ## run ruff, mypy and the import check, without the tests
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/dev ## format the code with ruff
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bundle: $(VENV)/run ## make build/bundle, a directory for hosts without a build chain
	$(BIN)/python tools/make-bundle build/bundle

image: packages-image ## make build/pylxcfs.tar, the image for Kubernetes, without Docker
	$(SUDO) tools/make-image build/pylxcfs.tar

clean: ## remove .venv, caches and the images of virtual machines
	$(SUDO) rm -rf $(VENV) .cache build *.egg-info
	$(SUDO) rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	$(SUDO) find . -name __pycache__ -type d -prune -exec rm -rf {} +

packages-run:
	@tools/system-packages run

packages-demo: packages-run
	@tools/system-packages demo

packages-test: packages-run
	@tools/system-packages demo test image

packages-image:
	@tools/system-packages image

packages-kubernetes: packages-run
	@tools/system-packages demo test image kubernetes

packages-bench: packages-run
	@tools/system-packages demo bench

# A venv without its Python (after an upgrade of the distribution) is replaced.
$(BIN)/python: | packages-run
	$(or $(PYTHON),$(error no Python: see above)) -m venv --clear $(VENV)

$(VENV)/run: pyproject.toml $(BIN)/python | packages-run
	$(BIN)/python -m pip install -q --disable-pip-version-check -e .
	@touch $@

$(VENV)/dev: pyproject.toml $(BIN)/python | packages-run
	$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[dev]'
	@touch $@ $(VENV)/run

$(VENV)/kubernetes: tests/kubernetes/requirements.txt $(VENV)/dev
	$(BIN)/python -m pip install -q --disable-pip-version-check -r tests/kubernetes/requirements.txt
	@touch $@

$(VENV)/bench: pyproject.toml $(VENV)/dev
	$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[dev,bench]'
	@touch $@
