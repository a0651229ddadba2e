# `make run`: from MNIST to a measured int8 TFLite. `make test`: everything that is checked.
# `make bench`: every speed, beside its peers; first .venv/bin/pip install --group bench for these.
# `make torture`: kills, full disks, bad networks, strangers' files; [FAULTS=50] [INPUTS=1000000].

PYTHON ?= python3
BIN := .venv/bin

.PHONY: run check test mutants bench torture clean

run: .venv/installed
	$(BIN)/keras-lenet run pipelines/quickstart.toml

test: .venv/installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/pytest

mutants: .venv/installed
	$(BIN)/pip install --quiet --constraint .constraints.txt --group mutants
	$(BIN)/python tests/mutants.py $(ROOMS)

bench: .venv/installed
	$(BIN)/python tests/benchmarks

torture: .venv/installed
	$(BIN)/python tests/torture/kills.py $(FAULTS)
	$(BIN)/python tests/torture/disk.py
	$(BIN)/python tests/torture/determinism.py
	$(BIN)/python tests/torture/downloads.py
	$(BIN)/python tests/torture/endurance.py
	$(BIN)/python tests/torture/files.py $(INPUTS)

.venv/installed: pyproject.toml .constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint .constraints.txt pip
	$(BIN)/pip install --quiet --constraint .constraints.txt --group dev --editable '.[train]'
	touch $@

clean:
	rm -rf .venv runs
