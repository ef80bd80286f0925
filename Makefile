# The only list of commands. `make` alone prints it.

PYTHON ?= python3
VENV := .venv
BENCH ?= campaign
BIN := $(VENV)/bin
PYTEST := $(BIN)/pytest

.DEFAULT_GOAL := help
.PHONY: help setup up record-release test test-unit test-contract test-integration test-e2e test-architecture test-faults test-compose bench bench-micro check format generate lock clean

help: ## Print this list.
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.ready ## Make the virtual environment with the pinned dependencies and the `textway` command.

# One that is there keeps its Python, whatever `python3` is by now: two of them in one would be neither.
$(VENV)/.ready: requirements-dev.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Textway needs Python 3.11 or newer; set PYTHON=...")'
	[ -x $(BIN)/python ] || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	$(BIN)/python -m compileall -q generated servicekit services
	touch $@

up: setup ## Run the product: gateway, services, SQLite files in data/, simulated carrier.
	@exec $(BIN)/textway up

# What bears company runs on both cores, the longest files first; a campaign that hurts the product has the machine to
# itself.
test: setup ## Run every test.
	$(PYTEST) -n 2 --dist loadfile --no-loadscope-reorder tests/e2e tests/integration tests/contract tests/architecture tests/releases tests/unit
	$(PYTEST) tests/faults

test-unit: setup ## Rules and use cases: no network, no disk.
	$(PYTEST) tests/unit

test-contract: setup ## What every store and every carrier must guarantee.
	$(PYTEST) tests/contract

test-integration: setup ## Each service behind a real gRPC server, in process.
	$(PYTEST) tests/integration

test-e2e: setup ## The product as a user runs it: real Envoy, real processes.
	$(PYTEST) tests/e2e

test-architecture: setup ## Imports, generated files, routes, error reasons.
	$(PYTEST) tests/architecture

test-faults: setup ## Crashes, outages, full disks and large queues in full size; `make test` has a slice of each.
	TEXTWAY_FULL_FAULTS=1 $(PYTEST) -m faults --timeout=1800

test-compose: setup ## The product in containers: started cold, scaled, restarted, killed, cut apart. Needs Docker.
	$(PYTEST) tests/compose

bench: setup ## Measure the product; BENCH='campaign --short' and others: benchmarks/README.md.
	$(BIN)/python -m benchmarks $(BENCH)

bench-micro: setup ## Measure the single steps of a message's way.
	$(PYTEST) benchmarks/micro --benchmark-disable-gc --timeout=0 --benchmark-columns=min,median,max,rounds $(MICRO)

check: setup ## Format, lint, types, import rules, proto lint, generated files.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python scripts/generate.py --image build/textway.binpb
	cd proto && ../$(BIN)/buf lint ../build/textway.binpb --config buf.yaml --exclude-path google
	$(BIN)/python scripts/generate.py --check

format: setup ## Format the code.
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

generate: setup ## Write the stubs, .env.example and docs/configuration.md.
	$(BIN)/python scripts/generate.py

record-release: setup ## Keep what this release leaves and does, for the upgrade tests of later ones.
	$(BIN)/python -m tests.releases.record

lock: ## Pin the newest allowed dependencies (needs `uv`).
	uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --all-extras \
		--upgrade pyproject.toml -o requirements-dev.lock
	uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
		--upgrade -c requirements-dev.lock pyproject.toml -o requirements.lock

clean: ## Remove what `make` made, the data folder excepted.
	rm -rf $(VENV) build .pytest_cache .mypy_cache .ruff_cache .hypothesis
