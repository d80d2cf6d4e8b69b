# make demo   installs everything into .venv and makes a video of an example portrait
# make test   installs what the tests need and runs them all
# make check  style and types
# Options: PYTHON=python3.12; PIP_FLAGS="--extra-index-url https://download.pytorch.org/whl/cpu" where there is no GPU

VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= $(shell for python in python3 python3.11 python3.12 python3.13 python3.14; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet $(PIP_FLAGS) -c constraints.txt
EXAMPLES := src/loquent/examples
DEMO := out/demo.mp4

# Small operations crawl on a busy machine when OpenMP threads spin.
export GOMP_SPINCOUNT ?= 10000

.PHONY: demo test check clean
.DELETE_ON_ERROR:

demo: $(VENV)/installed
	@mkdir -p $(dir $(DEMO))
	$(BIN)/loquent animate $(EXAMPLES)/portrait_a.jpg $(EXAMPLES)/speech.flac -o $(DEMO) --overwrite
	@echo "The video is $(abspath $(DEMO))"

test: $(VENV)/installed-dev
	$(BIN)/python -m pytest

check: $(VENV)/installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright --pythonpath $(BIN)/python

clean:
	rm -rf $(VENV) out

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "loquent needs Python 3.11 or newer; none was found. Try: make PYTHON=/path/to/python3"; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing loquent into $(VENV); the first time this takes a minute or two"
	$(PIP) -e .
	@touch $@

$(VENV)/installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing loquent and its tests' packages into $(VENV); the first time this takes a minute or two"
	$(PIP) -e ".[dev,tts,align]"
	@touch $@ $(VENV)/installed
