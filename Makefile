# Everything here works on a bare Debian or macOS machine with make and Python 3.11+; `make help` lists it.
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PEERS := $(VENV)/.peers
export PYTHON
ARGS ?=

.PHONY: help setup demo test check format bench up down clean
.DEFAULT_GOAL := help

help: ## list what there is to make
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(READY) ## make .venv with all that is needed, the model included

demo: $(READY) ## start a mesh, embed real text, search it, stop everything
	@$(BIN)/python -m mlx_mesh.cli.demo $(ARGS)

# Half of what they take is waiting, so two processes share the files out; --no-loadscope-reorder keeps the long ones first.
test: $(READY) ## run all tests (ARGS='tests/wire -x' to choose, in one process)
	@$(BIN)/python -m pytest $(or $(ARGS),-n 2 --dist loadfile --no-loadscope-reorder --max-worker-restart 0)

check: $(READY) ## lint, formatting, types, and that the tests reach every branch of the core
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/python -m pytest -q tests/core --cov=mlx_mesh_broker.core --cov-branch --cov-fail-under=100 \
		--cov-report=term-missing:skip-covered

format: $(READY) ## bring the code into its one format
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: $(READY) $(PEERS) ## run the benchmarks; peers are installed first
	@$(BIN)/python -m benchmarks $(ARGS)

up: $(READY) ## start the mesh and leave it running
	@$(BIN)/mlx-mesh up --detach

down: $(READY) ## stop the mesh
	@$(BIN)/mlx-mesh down

clean: ## remove .venv, caches and build results
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(READY): pyproject.toml requirements-model.txt scripts/setup
	@scripts/setup
	@touch $@

$(PEERS): $(READY)
	@scripts/setup peers
	@touch $@
