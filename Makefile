# One command each. `make demo` and `make test` make their own environment in .venv.

PYTHON ?= python3
BIN := .venv/bin
CI ?=
export TCP_NODELAY := 1

.PHONY: help setup demo test viewer viewers defects fuzz fuzz-guided bench crash faults crowd soak scale mutate check fix real-parts clean

help:
	@echo "make demo     send a real chest CT through a node and show what comes back"
	@echo "make test     install what the tests need and run all of them"
	@echo "make viewer   open what the demo made in OHIF, in your browser"
	@echo "make viewers  open every kind of result in OHIF and write docs/viewers.md"
	@echo "make defects  plant every kind of defect, ask all validators, and write docs/defects.md"
	@echo "make fuzz     throw ten thousand bad inputs at the node and write docs/robustness.md"
	@echo "make fuzz-guided  let the coverage of the code guide bad inputs, minutes for each target"
	@echo "make bench    measure every stage against its peers and write docs/performance.md"
	@echo "make crash    kill a node at every point of a study's path and write docs/reliability.md (half an hour)"
	@echo "make faults   fill the disk, fail it, lock the database, and write docs/reliability.md"
	@echo "make crowd    kill workers, actors and machines under 500 studies, and write docs/reliability.md (half an hour)"
	@echo "make soak     send thousands of studies from many senders while workers are killed (hours)"
	@echo "make scale    measure costs, simulate a hospital to a country, and write docs/scale.md (ten minutes)"
	@echo "make mutate   break each promise in a copy of the code and show which test notices"
	@echo "make check    lint, types, import rules and the quick tests"
	@echo "make fix      format, and mend what the linter can"
	@echo "make clean    remove the environment, caches and the demo's output"

setup: .venv/ready

# torch comes first and alone: a range of versions would take its GPU build, which is gigabytes larger.
.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet torch==2.13.0
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: .venv/ready
	$(BIN)/python -m dicomnode.demo

# Debian's orthanc, dcmtk and dicom3tools are the peers and judges of the tests.
real-parts:
	@deploy/install-test-programs

# The quick tests, then the slow ones, which start whole nodes and viewers, two at a time. With ARGS either part
# may have nothing to run, which pytest tells by 5.
test: .venv/ready real-parts
	$(BIN)/python -m pytest -m "not slow" -n 2 $(ARGS) || [ $$? -eq 5 ]
	$(BIN)/python -m pytest -m slow -n 2 --dist loadfile $(ARGS) || [ $$? -eq 5 ]

viewer: .venv/ready real-parts
	$(BIN)/python -m tests.viewers $(ARGS)

viewers: .venv/ready real-parts
	WRITE_VIEWER_TABLE=1 $(BIN)/python -m pytest tests/viewers $(ARGS)

defects: .venv/ready real-parts
	WRITE_DEFECT_TABLE=1 $(BIN)/python -m pytest tests/dicomnode/encode/test_defects.py $(ARGS)

fuzz: .venv/ready
	$(BIN)/python -m tests.fuzz --write $(ARGS)

# The extra `fuzz` has what guides a fuzzer by the coverage of the code.
fuzz-guided: .venv/ready
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[fuzz]'
	$(BIN)/python -m tests.fuzz --guided --write $(ARGS)

# The extra `bench` has what nothing but the benchmark compares with.
bench: .venv/ready real-parts
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[bench]'
	$(BIN)/python -m tests.bench --write $(ARGS)

crash: .venv/ready real-parts
	$(BIN)/python -m tests.crash $(ARGS)

faults: .venv/ready real-parts
	$(BIN)/python -m tests.faults $(ARGS)

crowd: .venv/ready real-parts
	$(BIN)/python -m tests.crowd --engine local --write $(ARGS)
	$(BIN)/python -m tests.crowd --engine ray --write $(ARGS)

soak: .venv/ready real-parts
	$(BIN)/python -m tests.soak $(ARGS)

scale: .venv/ready
	$(BIN)/python -m tests.scale all --write $(ARGS)

mutate: .venv/ready real-parts
	$(BIN)/python -m tests.mutants $(ARGS)

check: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy
	$(BIN)/python -m pytest -m "not slow" -n 2 $(ARGS)

fix: .venv/ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv .cache .mypy_cache .ruff_cache .pytest_cache .import_linter_cache demo build *.egg-info
