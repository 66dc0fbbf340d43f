# The same commands for a person and for CI. Everything lives in .venv of this checkout.
PYTHON ?= python3
# More arguments for pip: an index with a CPU build of torch, say.
PIP_ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
PEERS := .venv-peers
TORCH_CPU = $(shell grep -o '^torch==[^ ]*' requirements-torch-cpu.lock)

.PHONY: setup demo test check docs bench bench-peers format clean

setup: $(STAMP) ## Make .venv with the locked versions, each file checked against its sha256

$(STAMP): requirements-torch-cpu.lock requirements.lock requirements-cuda.lock requirements-nodeps.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Neurrate needs Python 3.11 or newer; set PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv $(VENV)
	@# The CPU build of torch where an index or a folder of wheels has it; else, in the next step, that of PyPI.
	@# The lock has the sha256 of one file. Another Python or processor needs another file of that version,
	@# which is taken unchecked: PyPI's build would bring several GB of CUDA.
	$(PIP) --require-hashes --no-deps $(PIP_ARGS) -r requirements-torch-cpu.lock 2>/dev/null || \
	  { $(PIP) --no-deps $(PIP_ARGS) $(TORCH_CPU) 2>/dev/null && echo "$(TORCH_CPU) was installed without a check of its sha256"; } || true
	$(PIP) --require-hashes --no-deps $(PIP_ARGS) -r requirements.lock
	@# PyPI's torch for Linux needs CUDA from packages of its own; a CPU build has no use for them.
	if $(BIN)/python -c 'import sys; from importlib.metadata import requires; sys.exit(not any("cuda" in r or "nvidia" in r for r in requires("torch")))'; then \
	  $(PIP) --require-hashes --no-deps $(PIP_ARGS) -r requirements-cuda.lock; fi
	$(PIP) --require-hashes --no-deps $(PIP_ARGS) -r requirements-nodeps.lock
	$(PIP) --no-deps --no-build-isolation -e .
	@touch $(STAMP)

demo: setup ## Replay a recording at real time through the whole daemon
	$(BIN)/neurrate demo

test: setup ## All tests that this machine can run
	@# Compiled files are kept whatever the environment says: the tests start hundreds of processes,
	@# and rewriting their assertions is half of the time to collect them.
	env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -m pytest -n 4 --dist worksteal

check: setup ## Format, lint, types, import directions, spelling
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell

docs: setup ## The pages as a site, in build/site; a broken link is an error
	@# Silences the advertisement of another site generator.
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

bench: setup ## Benchmarks on the CPU, each a table and a JSON line
	$(BIN)/python -m benchmarks.bench_bin_ring
	$(BIN)/python -m benchmarks.bench_wire_ingest
	$(BIN)/python -m benchmarks.bench_curve
	$(BIN)/python -m benchmarks.bench_window_cut
	$(BIN)/python -m benchmarks.bench_dataset
	$(BIN)/python -m benchmarks.bench_encoder
	$(BIN)/python -m benchmarks.bench_narrator
	$(BIN)/python -m benchmarks.bench_trigger_evaluator
	$(BIN)/python -m benchmarks.bench_trigger
	$(BIN)/python -m benchmarks.bench_rate_meter

$(PEERS)/.installed: benchmarks/peers/requirements.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -r benchmarks/peers/requirements.txt
	@touch $(PEERS)/.installed

bench-peers: setup $(PEERS)/.installed ## The ingest beside ezmsg, timeflux and pylsl, which get an environment of their own
	$(BIN)/python -m benchmarks.bench_peers

format: setup ## Rewrite the files in the project's format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean: ## Remove what make made
	rm -rf $(VENV) $(PEERS) build .demo .bench .pytest_cache .mypy_cache .ruff_cache .hypothesis
