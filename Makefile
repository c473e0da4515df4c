# make run    a first look at real tissue, then the chat page (CHAT=0 stops before it)
# make test   everything that must hold before a change is kept
# Both set up .venv themselves, and again only when pyproject.toml has changed. PYTHON=... chooses the Python.

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check
CHAT ?= 1
export OMP_WAIT_POLICY ?= PASSIVE
FITS := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c '$(FITS)' 2>/dev/null && echo $$p && break; done)

.PHONY: help run test clean

help:
	@sed -n '1,3s/^# //p' Makefile

run: $(VENV)/run.stamp
	$(BIN)/slidekick demo
	@if [ "$(CHAT)" != 0 ]; then $(BIN)/slidekick chat; fi

test: $(VENV)/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/python -m pytest
	$(BIN)/python -m slidekick.apps.bench.smoke

clean:
	rm -rf $(VENV) build dist *.egg-info

$(BIN)/python:
	@$(or $(PYTHON),false) -c '$(FITS)' 2>/dev/null || { \
		echo "slidekick: needs Python 3.11, 3.12 or 3.13; give it: make PYTHON=/path/to/python3.12" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/run.stamp: pyproject.toml | $(BIN)/python
	@echo "Setting up $(VENV) (some minutes the first time) ..."
	$(PIP) -e '.[chat]'
	@touch $@

# The development set holds all of the other, so it serves `make run` too.
$(VENV)/dev.stamp: pyproject.toml | $(BIN)/python
	@echo "Setting up $(VENV) for development (some minutes the first time) ..."
	$(PIP) -e '.[dev]'
	@touch $@ $(VENV)/run.stamp
