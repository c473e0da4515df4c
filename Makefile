# make run    a first look at real tissue, then the chat page (CHAT=0 stops before it)
# make test   everything that must hold before a change is kept
# make lock   pins anew what both install, with hashes, after a change of pyproject.toml
# make audit  known weaknesses and licences of what is pinned, and an SBOM in build/
# run and test set up .venv themselves, and again only when what is pinned has changed. PYTHON=... chooses the Python.

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check
TOOLS := $(VENV)/tools/bin
CHAT ?= 1
export OMP_WAIT_POLICY ?= PASSIVE
FITS := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c '$(FITS)' 2>/dev/null && echo $$p && break; done)

# Nothing but what the lock names, each file by its hash; then the project itself.
install = $(PIP) --require-hashes -r requirements/$(1).txt && $(PIP) --no-deps -e .
locked = $(TOOLS)/uv pip compile --universal --python-version 3.11 --generate-hashes --no-annotate --no-header -q \
	pyproject.toml --extra $(2) -o requirements/$(1).txt

.PHONY: help run test lock audit clean

help:
	@sed -n '1,5s/^# //p' Makefile

run: $(VENV)/run.stamp
	$(BIN)/slidekick demo
	@if [ "$(CHAT)" != 0 ]; then $(BIN)/slidekick chat; fi

test: $(VENV)/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/python -m pytest
	$(BIN)/slidekick bench smoke

lock: $(VENV)/tools.stamp
	$(call locked,dev,dev)
	$(call locked,run,chat) -c requirements/dev.txt

audit: $(VENV)/tools.stamp $(VENV)/run.stamp
	@mkdir -p build
	$(TOOLS)/cyclonedx-py requirements requirements/run.txt --pyproject pyproject.toml -o build/sbom.json
	$(TOOLS)/pip-licenses --python $(BIN)/python --with-urls --format=markdown --output-file build/licences.md \
		--partial-match --fail-on "AGPL;Affero;GPL-3;GPLv3;SSPL;Commons Clause"
	$(TOOLS)/pip-audit --strict --disable-pip --require-hashes -r requirements/dev.txt

clean:
	rm -rf $(VENV) build dist *.egg-info

$(BIN)/python:
	@$(or $(PYTHON),false) -c '$(FITS)' 2>/dev/null || { \
		echo "slidekick: needs Python 3.11, 3.12 or 3.13; give it: make PYTHON=/path/to/python3.12" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/run.stamp: requirements/run.txt | $(BIN)/python
	@echo "Setting up $(VENV) (some minutes the first time) ..."
	$(call install,run)
	@touch $@

# The development set holds all of the other, so it serves `make run` too.
$(VENV)/dev.stamp: requirements/dev.txt | $(BIN)/python
	@echo "Setting up $(VENV) for development (some minutes the first time) ..."
	$(call install,dev)
	@touch $@ $(VENV)/run.stamp

$(VENV)/tools.stamp: | $(BIN)/python
	$(BIN)/python -m venv $(VENV)/tools
	$(TOOLS)/pip install --disable-pip-version-check -q uv==0.13.8 pip-audit==2.10.1 pip-licenses==5.5.5 cyclonedx-bom==7.5.0
	@touch $@
