# Python 3.11 or newer and make are all this needs. Every target sets itself up.
#   make run     real orders on the real engine; Ctrl-C stops the stack
#   make test    the whole test suite
#   make check   formatting, lint and types
#   make bench   what an order costs, and stock and money: forty minutes on a machine with nothing else to do
#   make bench-stock-and-money   only the latter: under ten minutes
#   make record  record the histories that changed workflow code is tried on
#   make setup   only prepare .venv
#   make lock    recompile the two lock files (needs uv)

SHELL  := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
VENV   := .venv
BIN    := $(VENV)/bin
PYTHON ?=
# Test files run side by side, one more than there are cores: much of a test is waiting. JOBS=0 runs them in one process.
JOBS   ?= $(shell expr $$(getconf _NPROCESSORS_ONLN) + 1)
UV     ?= $(shell command -v uv 2>/dev/null)

# A stack is nine Python processes: without byte code on disk each would compile every module again.
unexport PYTHONDONTWRITEBYTECODE

# A stamp is written last, so an interrupted install leaves none that counts.
CREATED := $(VENV)/created
RUNTIME := $(VENV)/installed-runtime
DEV     := $(VENV)/installed-dev

.PHONY: run test bench bench-stock-and-money record check format setup lock clean
.DELETE_ON_ERROR:

run: $(RUNTIME)
	@exec $(BIN)/orderwright demo --speed 86400

# The matrix kills workers and waits for deadlines: it has the machine to itself. ARGS names a part of all tests instead.
MATRIX := tests/workflows/test_matrix.py
test: $(DEV)
ifeq ($(strip $(ARGS)),)
	@$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder --ignore $(MATRIX)
	@$(BIN)/python -m pytest $(MATRIX)
else
	@$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder $(ARGS)
endif

# Tables on the terminal, figures in bench*.json, both and plots in docs. ARGS=--quick is rough and leaves docs alone.
bench: $(DEV)
	@$(BIN)/python -m benchmarks.throughput --json bench.json --page docs/performance.md $(ARGS)
	@$(STOCK_AND_MONEY) $(ARGS)

bench-stock-and-money: $(DEV)
	@$(STOCK_AND_MONEY) $(ARGS)

STOCK_AND_MONEY = $(BIN)/python -m benchmarks.stock_and_money --json bench-stock-and-money.json \
	--page docs/speed-of-stock-and-money.md

# Every history that the workflow tests make, for tests/replay; see docs/change-a-workflow.md. (Matrix and upgrade play
# on a stage of their own, and make none.)
record: $(DEV)
	@$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --record-histories tests/workflows -k "not matrix and not upgrade"
	@$(BIN)/python -m pytest -n $(JOBS) tests/replay

check: $(DEV)
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy

format: $(DEV)
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

setup: $(RUNTIME)

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis

# $(call install,LOCK): exactly the locked files by hash, then this project itself, editable.
# pip leaves byte-compiling to the first import: that is seconds less before the first order.
define install
	@echo "Installing from $(1) …"
	@if [ -n "$(UV)" ]; then \
	  "$(UV)" pip install --quiet --python $(BIN)/python --require-hashes --no-deps -r $(1); \
	  "$(UV)" pip install --quiet --python $(BIN)/python --no-build-isolation --no-deps -e .; \
	else \
	  $(find_pip); \
	  pip install --quiet --disable-pip-version-check --no-compile --require-hashes --no-deps -r $(1); \
	  pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps -e .; \
	fi
endef

# Makes `pip` install into .venv. The pip of the interpreter behind .venv does so from outside (22.3 and newer): a pip
# of its own would take twenty seconds to make, which is the way only where there is no other.
define find_pip
base=$$($(BIN)/python -c 'import sys; print(sys._base_executable)'); \
	  if "$$base" -m pip --python $(BIN)/python --version >/dev/null 2>&1; then \
	    pip() { "$$base" -m pip --python $(BIN)/python "$$@"; }; \
	  elif $(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip >/dev/null 2>&1; then \
	    pip() { $(BIN)/python -m pip "$$@"; }; \
	  else \
	    echo "$$base has no pip, and cannot make one (on Debian and Ubuntu: apt-get install python3-venv)." >&2; \
	    exit 1; \
	  fi
endef

$(RUNTIME): requirements.lock pyproject.toml | $(CREATED)
	$(call install,requirements.lock)
	@touch $@

$(DEV): requirements-dev.lock requirements.lock pyproject.toml | $(CREATED)
	$(call install,requirements-dev.lock)
	@touch $(RUNTIME) $@

$(CREATED):
	@python=; for candidate in $(PYTHON) python3 python3.14 python3.13 python3.12 python3.11 python; do \
	  if "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then \
	    python=$$candidate; break; \
	  fi; \
	done; \
	if [ -z "$$python" ]; then \
	  echo "Orderwright needs Python 3.11 or newer, and none was found on PATH. Install one, or name it: make PYTHON=/path/to/python3.11" >&2; \
	  exit 1; \
	fi; \
	rm -rf $(VENV); \
	if ! "$$python" -m venv --without-pip $(VENV); then \
	  rm -rf $(VENV); \
	  echo "Could not create a virtual environment with $$python (on Debian and Ubuntu: apt-get install python3-venv)." >&2; \
	  exit 1; \
	fi
	@touch $@

lock:
	@if [ -z "$(UV)" ]; then echo "make lock needs uv on PATH" >&2; exit 1; fi
	$(call compile,requirements.lock,)
	$(call compile,requirements-dev.lock,--group dev -c requirements.lock)

# setuptools builds the editable install, so it is locked too. No line may name an index or a host.
define compile
	@echo setuptools | "$(UV)" pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate \
	  --no-header --no-emit-index-url --no-emit-find-links $(2) pyproject.toml - -o $(1)
endef
