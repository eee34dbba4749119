# Everything here works on a bare Debian or macOS machine with make and Python 3.11+; `make help` lists it.
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PEERS := $(VENV)/.peers
FUZZER := $(VENV)/.fuzzer
NODE := client/node
NODE_READY := $(NODE)/node_modules/.ready
export PYTHON
ARGS ?=

.PHONY: help setup demo test check audit sbom format bench up down clean
.PHONY: trials sim fuzz properties faults abuse soak heap mutation
.PHONY: test-python test-node
.DEFAULT_GOAL := help

help: ## list what there is to make
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(READY) $(NODE_READY) ## make .venv with all that is needed, the model included; the same for the Node client

demo: $(READY) ## start a mesh, embed real text, search it, stop everything
	@$(BIN)/python -m mlx_mesh.cli.demo $(ARGS)

# The Node client's tests, and then pytest's, whatever came of the others.
test: $(READY) ## run all tests (ARGS='tests/wire -x' to choose of pytest's, in one process)
ifdef ARGS
	@$(BIN)/python -m pytest $(ARGS)
else
	@$(MAKE) --no-print-directory --keep-going test-node test-python
endif

# Half of what they take is waiting, so three processes share the files out; --no-loadscope-reorder keeps the long ones first.
test-python: $(READY)
	@MAKEFLAGS= $(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder --max-worker-restart 0

test-node: $(READY) $(NODE_READY)
	@scripts/node test

# The tests of what has no socket, process or clock inside: tests/pure.ini lists that.
PURE := tests/core tests/wire $(addprefix tests/client/test_,session.py session_edges.py session_ends.py session_parts.py) \
	$(addprefix tests/worker/test_,session.py session_bounds.py runner.py runner_bounds.py outputs.py) \
	$(addprefix tests/guard/test_,interrupted.py parts.py patience.py policy.py policy_edges.py restraint.py trend.py)

check: $(READY) $(NODE_READY) ## lint, formatting, types, and that the tests reach every branch of the pure parts
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@scripts/node check
	@$(BIN)/python -m pytest -q $(PURE) --cov-config=tests/pure.ini --cov --cov-report=term-missing:skip-covered
	@$(BIN)/python scripts/audit.py advisories

audit: $(READY) ## look what is installed up in the advisory databases (make check does it too, where the network allows)
	@$(BIN)/python scripts/audit.py advisories

sbom: $(READY) ## write build/sbom.json, a CycloneDX bill of materials of the mesh with all its extras
	@$(BIN)/python scripts/audit.py sbom build/sbom.json

format: $(READY) ## bring the code into its one format
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: $(READY) $(PEERS) ## run the benchmarks; peers are installed first
	@$(BIN)/python -m benchmarks $(ARGS)

# Trials: longer than a test, each for as long as you give it.
HOURS ?= 1
MINUTES ?= 1
ROUNDS ?= 10
RUNS ?= 8
EACH ?= 60
SEEDS ?= 2000

trials: $(READY) ## the shortest form of the trials that hurt real processes, those that the tests leave out
	@$(BIN)/python -m pytest -m trial $(ARGS)

sim: $(READY) ## simulate SEEDS=n lives of a mesh and hold each step to the promise (ARGS='--first N --jobs J')
	@$(BIN)/python -m tests.sim --seeds $(SEEDS) $(or $(ARGS),--jobs 2)

fuzz: $(READY) $(FUZZER) ## fuzz all that reads foreign bytes (MINUTES=n for each, TARGET=t for one)
	@$(BIN)/python -m tests.fuzz --minutes $(MINUTES) $(if $(TARGET),--target $(TARGET)) $(ARGS)

properties: $(READY) ## try the properties on ROUNDS=n sets of examples that the tests do not have
	@set -e; first=$$(date +%s); for round in $$(seq $(ROUNDS)); do \
		$(BIN)/python -m pytest -q --timeout 600 --hypothesis-seed=$$((first + round)) $$(grep -rlE '^@given' tests) $(ARGS); done

faults: $(READY) ## hurt real meshes in every way there is (RUNS=8 of EACH=60 seconds for each mix)
	@$(BIN)/python -m tests.faults.mixes --runs $(RUNS) --seconds $(EACH) $(ARGS)

abuse: $(READY) ## attack a broker in every way we know of, with good clients beside it (ARGS='--only NAME')
	@$(BIN)/python -m tests.abuse $(ARGS)

soak: $(READY) ## load a whole mesh for HOURS=n (or MINUTES=n) and see whether anything grows
	@$(BIN)/python -m tests.soak $(if $(findstring command,$(origin MINUTES)),--minutes $(MINUTES),--hours $(HOURS)) $(ARGS)

heap: $(READY) $(NODE_READY) ## 100,000 calls and 1,000 aborted streams of the Node client; nothing of them may be left
	@cd $(NODE) && npm run --silent test:heap

mutation: $(READY) ## put small mistakes into the code and count those that the tests notice (ARGS='--only core' to choose)
	@$(BIN)/python -m tests.mutation $(ARGS)

up: $(READY) ## start the mesh and leave it running
	@$(BIN)/mlx-mesh up --detach

down: $(READY) ## stop the mesh
	@$(BIN)/mlx-mesh down

clean: ## remove .venv, caches and build results
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage
	rm -rf $(addprefix $(NODE)/,node_modules build dist)
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(READY): pyproject.toml requirements-model.txt scripts/setup
	@scripts/setup
	@touch $@

# It makes the file itself, and only where there is a Node.
$(NODE_READY): $(NODE)/package-lock.json
	@scripts/setup node

$(PEERS): $(READY)
	@scripts/setup peers
	@touch $@

$(FUZZER): $(READY)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --group fuzz
	@touch $@
