# `make run`: from MNIST to a measured int8 TFLite. `make check`: style, types and the fast tests.
# `make test`: everything that is checked. `make tables`: the READMEs' tables, from their records.
# `make mutants [ROOMS="reading fit"]`: how many deliberate faults the tests notice.
# `make bench`: every speed, beside its peers. `make torture`: kills, full disks, bad networks,
# strangers' files.

PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(BIN)/pip install --quiet --constraint .constraints.txt

.PHONY: run format check test tables mutants bench torture clean

run: .venv/installed
	$(BIN)/keras-lenet run pipelines/quickstart.toml

format: .venv/tools
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

check: .venv/tools
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/pytest --numprocesses 2 --dist loadfile -m "not slow and not browser and not device"

test: .venv/tools
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/pytest --numprocesses 2 --dist loadfile

tables: .venv/tools
	$(BIN)/python tests/tables.py

mutants: .venv/tools
	$(INSTALL) --group mutants
	$(BIN)/python tests/mutants.py $(ROOMS)

bench: .venv/tools
	$(INSTALL) --group bench
	$(BIN)/python tests/benchmarks

torture: .venv/tools
	$(BIN)/python tests/torture

# What users need, and nothing that only developers do.
.venv/installed: pyproject.toml .constraints.txt
	$(PYTHON) -m venv .venv
	$(INSTALL) pip
	$(INSTALL) --editable '.[train]'
	touch $@

.venv/tools: .venv/installed
	$(INSTALL) --group dev
	touch $@

clean:
	rm -rf .venv runs
