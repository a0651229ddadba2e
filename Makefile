# `make run`: from MNIST to a measured int8 TFLite. `make test`: everything that is checked.
# `make torture`: kills, full disks, bad networks, strangers' files; [FAULTS=50] [INPUTS=1000000].

PYTHON ?= python3
BIN := .venv/bin

.PHONY: run test bench torture clean

run: .venv/installed
	$(BIN)/keras-lenet run pipelines/quickstart.toml

test: .venv/installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/pytest

bench: .venv/installed
	$(BIN)/python tests/benchmarks/input_pipeline.py
	$(BIN)/python tests/benchmarks/inference.py
	$(BIN)/python tests/benchmarks/startup.py

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
