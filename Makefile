# `make demo` and `make test` need git, make and Python 3.11 or newer with venv; they set up all else under .venv.
#
#   PYTHON=python3.12    another interpreter
#   TORCH_INDEX=URL      a package index to look for torch on as well: PyTorch's index of CPU builds spares some
#                        gigabytes of CUDA libraries; its address stands in PyTorch's installation guide

PYTHON ?= python3
TORCH_INDEX ?=

VENV := .venv
TORCH27 := .venv-torch27
BIN := $(VENV)/bin
PIP_INSTALL := -m pip --disable-pip-version-check install --quiet --no-compile
NO_DEPS := --no-deps --no-build-isolation
LOCKS := requirements
SCRIPTS = .ci/run $(wildcard tests/services/standin/*.sh)

.DEFAULT_GOAL := help
.PHONY: help demo test test-services test-torch27 chaos chaos-short pictures lint bench performance results schema lock clean
.DELETE_ON_ERROR:

help: ## This list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/run.stamp ## Train a policy for a cart-pole on this machine and watch it learn
	@$(BIN)/python orchestrate.py submit jobs/quickstart.yaml --follow --yes

test: $(VENV)/dev.stamp ## All tests that need no root
	@$(BIN)/pytest -n 2 -m "not services"

test-services: $(VENV)/dev.stamp $(TORCH27)/run.stamp ## Tests that need root, Docker Engine, debootstrap, Slurm and sshd
	@$(BIN)/pytest -m services tests/services

test-torch27: $(TORCH27)/run.stamp ## The trainer's tests on what Isaac Lab's image has: torch 2.7.0, numpy 1.26
	@$(TORCH27)/bin/pytest -n 2 -m "not services" tests/trainer tests/standin

chaos: $(VENV)/dev.stamp $(TORCH27)/run.stamp ## Runs that go wrong here, in containers and on Slurm: a quarter of an hour; writes docs/reliability.md
	@$(BIN)/python -m tests.chaos --write

pictures: $(VENV)/dev.stamp ## Take the pictures of docs/ anew; needs Chromium
	@$(BIN)/pytest -n 0 -q -k pictures_of_the_docs tests/orchestrator/test_tables.py tests/services/test_report_browser.py --pictures

chaos-short: $(VENV)/dev.stamp ## A few of them, in minutes
	@$(BIN)/python -m tests.chaos --short

lint: $(VENV)/dev.stamp ## Linters, formatting, types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@if command -v shellcheck >/dev/null; then shellcheck $(SCRIPTS); else echo "shellcheck is not installed: $(SCRIPTS) not looked at"; fi

bench: $(VENV)/dev.stamp ## Figures of benchmarks/, as tables and as JSON
	@$(BIN)/python benchmarks/cli.py

performance: ## Write docs/performance.md anew from benchmarks/results/
	@$(PYTHON) tools/performance.py > docs/performance.md.new
	@mv docs/performance.md.new docs/performance.md

results: $(VENV)/run.stamp ## Write docs/results.md, its curves and docs/scaling.md anew from benchmarks/results/
	@$(BIN)/python tools/results.py
	@$(BIN)/python tools/scaling.py

schema: $(VENV)/run.stamp ## Write schemas/job.schema.json anew
	@$(BIN)/python orchestrate.py schema > schemas/job.schema.json.new
	@mv schemas/job.schema.json.new schemas/job.schema.json

lock: $(VENV)/dev.stamp $(TORCH27)/run.stamp ## Write the lock files anew from what is installed
	@$(BIN)/python tools/lock.py
	@$(TORCH27)/bin/python tools/lock.py torch27

clean: ## Remove the environments and caches; runs stay
	rm -rf $(VENV) $(TORCH27) .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist *.egg-info
	find . -name __pycache__ -prune -exec rm -rf {} +

# An environment is set up again, in place, when one of its locks changes.

$(VENV)/run.stamp: $(LOCKS)/installers.txt $(LOCKS)/torch.txt $(LOCKS)/run.txt
	$(call make_venv,$(VENV))
	@echo "Installing torch into $(VENV)" >&2
	@$(BIN)/python $(PIP_INSTALL) $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) -c $(LOCKS)/run.txt -r $(LOCKS)/torch.txt
	@echo "Installing the trainer's other packages" >&2
	@$(BIN)/python $(PIP_INSTALL) $(NO_DEPS) -r $(LOCKS)/run.txt
	$(call compile,$(VENV))
	@touch $@

$(VENV)/dev.stamp: $(LOCKS)/dev.txt $(VENV)/run.stamp
	@echo "Installing what tests and linters need" >&2
	@$(BIN)/python $(PIP_INSTALL) $(NO_DEPS) -r $(LOCKS)/dev.txt
	@touch $@

$(TORCH27)/run.stamp: $(LOCKS)/installers.txt $(LOCKS)/torch27.txt
	$(call make_venv,$(TORCH27))
	@echo "Installing torch 2.7.0 and its CUDA libraries into $(TORCH27): 2 GB" >&2
	@$(TORCH27)/bin/python $(PIP_INSTALL) $(NO_DEPS) -r $(LOCKS)/torch27.txt
	$(call compile,$(TORCH27))
	@touch $@

define make_venv
@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	{ echo "Python 3.11 or newer is needed, and $(PYTHON) is not: make PYTHON=/path/to/python3.11 …" >&2; exit 1; }
@$(PYTHON) -c 'import venv, ensurepip' || \
	{ echo "$(PYTHON) has no venv module; on Debian: apt-get install python3-venv" >&2; exit 1; }
@echo "Making $(1)" >&2
@$(PYTHON) -m venv $(1)
@$(1)/bin/python $(PIP_INSTALL) -r $(LOCKS)/installers.txt
endef

# Once, on all cores, instead of by pip on one; some packages carry files for a newer Python, which do not compile.
define compile
@echo "Compiling" >&2
@$(1)/bin/python -m compileall -qq -j 0 $(1)/lib || true
endef
