# Everything runs from .venv, which `make setup` builds with nothing but Python 3.11+ (and git for the clone).
# Another Python: make setup PYTHON=python3.13
PYTHON ?= python3
# Where PyTorch comes from. On Linux, PyPI's wheel is the CUDA build (several GB); the small CPU build comes with
# make setup TORCH_INDEX=https://download.pytorch.org/whl/cpu
TORCH_INDEX ?=
# Narrows the test suite, and runs it in one process: make unit PYTEST_ARGS="-n 0 -k circle -x"
PYTEST_ARGS ?=
# The benchmarks that `make bench` runs, by their files in benchmarks/.
BENCH ?= training side_by_side many_tasks start_up gpu balancing batch_gather ingest larger_than_memory snapshots
BENCH_ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
BENCH_VENV := .venv-bench
SERVE_VENV := .venv-bench-serve
SERVE_READY := $(SERVE_VENV)/.ready
BENCH_READY := $(BENCH_VENV)/.ready
PIP := $(BIN)/python -m pip --disable-pip-version-check
BENCH_PIP := $(BENCH_VENV)/bin/python -m pip --disable-pip-version-check
# A person sees pip's progress, a log only its complaints.
QUIET := $$([ -t 2 ] || echo --quiet)

.DEFAULT_GOAL := help
.PHONY: help setup demo serve test check unit faults bench bench-serve format docs migration lock image clean

help: ## Show this list.
	@echo "Taskloom: multi-task learning as a service. Start with: make demo"
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-11s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

# The mark is set last, so an installation that failed half-way is taken up again by the next make.
$(READY): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "Taskloom needs Python 3.11 or newer, and there is no $(PYTHON) here." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit("Taskloom needs Python 3.11 or newer, and $(PYTHON) is " + sys.version.split()[0] + "; name another with: make setup PYTHON=python3.12" if sys.version_info < (3, 11) else 0)'
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "$(PYTHON) cannot make virtual environments; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@rm -f $@
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@echo "Installing Taskloom and its tools into $(VENV): a few minutes, PyTorch is large."
	@$(if $(TORCH_INDEX),$(PIP) install $(QUIET) --no-deps --extra-index-url $(TORCH_INDEX) "$$(grep '^torch==' constraints.txt)")
	@$(PIP) install $(QUIET) -c constraints.txt -e '.[dev]'
	@touch $@

setup: $(READY) ## Make .venv with Taskloom and all that developing it needs.

demo: $(READY) ## Play the tutorial and a real data set through a real server and worker.
	$(BIN)/taskloom demo

serve: $(READY) ## Start the server and its worker on http://127.0.0.1:8000, data in ./data.
	$(BIN)/taskloom serve

test: check unit ## All checks below, then the whole test suite.

check: $(READY) ## Format and lint, strict types, import contracts, Dockerfile and compose file.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/hadolint Dockerfile
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec docker-compose.yml

# Compiled once, and not in each of the many processes that the tests start.
unit: export PYTHONDONTWRITEBYTECODE =
unit: $(READY) ## The test suite alone; PYTEST_ARGS="-k name" narrows it.
	$(BIN)/pytest -n 3 --dist loadscope --no-loadscope-reorder $(PYTEST_ARGS)

faults: export TASKLOOM_FAULTS = full
faults: $(READY) ## The whole fault suite, up to 20 minutes: processes killed, disks full, databases away, clocks set.
	$(BIN)/pytest -s -q --timeout 900 tests/faults tests/service/test_lifecycle.py $(PYTEST_ARGS)

# Snorkel trains in the same versions of Python and PyTorch, in an environment of its own.
$(BENCH_READY): constraints.txt
	@rm -f $@
	@echo "Installing Snorkel, which the benchmarks compare with, into $(BENCH_VENV)."
	@$(PYTHON) -m venv --clear $(BENCH_VENV)
	@$(BENCH_PIP) install $(QUIET) -c constraints.txt $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) \
	  snorkel==0.10.0 "$$($(BIN)/python -c 'import torch; print("torch==" + torch.__version__)')"
	@touch $@

bench: $(READY) $(BENCH_READY) ## Run the benchmarks; BENCH="training gpu" names some, BENCH_ARGS="--rounds 1" goes to them.
	@set -e; for name in $(BENCH); do echo "== $$name"; $(BIN)/python -m benchmarks.$$name $(BENCH_ARGS); done

# The other servers have requirements of their own, but the versions of Python, PyTorch, numpy and of what speaks HTTP
# that .venv has.
SERVE_SHARED := torch numpy safetensors orjson fastapi starlette uvicorn uvloop httptools pydantic
$(SERVE_READY): constraints.txt
	@rm -f $@
	@echo "Installing the servers that predictions are compared with into $(SERVE_VENV): some 2 GB."
	@$(PYTHON) -m venv --clear $(SERVE_VENV)
	@$(SERVE_VENV)/bin/python -m pip --disable-pip-version-check install $(QUIET) $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) \
	  $$($(BIN)/python -c 'import sys; from importlib.metadata import version; print(*(f"{name}=={version(name)}" for name in sys.argv[1:]))' $(SERVE_SHARED)) \
	  litserve==0.2.19 mlflow==3.17.2 bentoml==1.4.40 'ray[serve]==2.60.0'
	@touch $@

bench-serve: $(READY) $(SERVE_READY) ## Measure predictions over HTTP beside other servers; BENCH_ARGS="--rounds 1" goes to it.
	$(BIN)/python -m benchmarks.serving $(BENCH_ARGS)

format: $(READY) ## Put the code into the house format.
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(READY) ## Write the pages of docs/ that are made from the code.
	$(BIN)/python docs/generate.py

migration: $(READY) ## Draft what app/db/tables.py has new: make migration NAME="runs get a priority"
	@$(BIN)/python -m migrations "$(NAME)"
	@$(BIN)/ruff format --quiet migrations

# What is left out differs by platform: PyTorch's build suffix, and the CUDA packages that only Linux has.
lock: $(READY) ## Write the versions installed now to constraints.txt.
	@$(PIP) freeze --all --exclude-editable > $(VENV)/freeze.txt
	@{ echo "# The versions that \`make setup\` and the image install; written by \`make lock\`."; \
	  sed -E 's/^(torch==[0-9.]+)\+.*/\1/' $(VENV)/freeze.txt | grep -viE '^(#|pip=|wheel=|nvidia|triton=|cuda)'; } > constraints.txt
	@touch $(READY)

image: ## Build the container image taskloom:latest (CPU); TORCH_INDEX= takes the CUDA build.
	docker build $(if $(filter file,$(origin TORCH_INDEX)),,--build-arg TORCH_INDEX=$(TORCH_INDEX)) -t taskloom:latest .

clean: ## Remove .venv, .venv-bench, .venv-bench-serve and caches; data/ stays.
	rm -rf $(VENV) $(BENCH_VENV) $(SERVE_VENV) .pytest_cache .ruff_cache .hypothesis .import_linter_cache build dist *.egg-info
