# Every target sets up what it needs in .venv, and does so again only when pyproject.toml or the constraints change.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# What was tested; `make setup CONSTRAINTS=` in a fresh checkout takes the newest instead.
CONSTRAINTS ?= constraints-cpu.txt
PIP := $(BIN)/pip install --quiet

GPU_TESTS := $(wildcard tests/kernels/*_triton.py)
TRITON_TESTS := $(GPU_TESTS) tests/kernels/test_packed_sequences.py

.PHONY: $(TRITON_TESTS) $(GPU_TESTS:=-gpu) help setup demo test test-no-jit test-slow test-gpu test-all conformance lint format fuzz bench bench-gpu clean
.DEFAULT_GOAL := help

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 20

setup: $(VENV)/.ready  ## make the virtual environment .venv

$(VENV)/.ready: pyproject.toml $(wildcard $(CONSTRAINTS))
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "seqzoo needs Python 3.11 or newer; try: make $(MAKECMDGOALS) PYTHON=python3.12")'
	@cd src && $(PYTHON) -c 'import seqzoo'  # says what to do where git could not make the links
	@echo "Setting up $(VENV) (some minutes, once) ..."
	$(PYTHON) -m venv $(VENV)
	$(PIP) --upgrade pip
ifeq ($(CONSTRAINTS),)
	$(PIP) --editable '.[dev]'
else
	$(PIP) $$(grep '^torch==' $(CONSTRAINTS))
	@# A CUDA build of torch brings the Triton that it needs.
	@sed "$$($(BIN)/python -W ignore -c 'import torch; print("/^triton==/d" if torch.version.cuda else "")')" $(CONSTRAINTS) > $(VENV)/constraints.txt
	$(PIP) --constraint $(VENV)/constraints.txt --editable '.[dev]'
endif
	@touch $@

demo: setup  ## the main job, start to end, in less than ten minutes on two idle cores: train, convert, fine-tune, compare, export, generate
	$(BIN)/seqzoo demo

test: setup  ## the default tests
	$(BIN)/python -m pytest -m "not slow and not gpu"

test-no-jit: setup  ## the NES tests with numba's compiler off: the same source has to give the same
	NUMBA_DISABLE_JIT=1 $(BIN)/python -m pytest tests/data/nes --ignore tests/data/nes/test_drawing.py \
	    -m "not slow and not gpu and not compiled"

test-slow: setup  ## what takes minutes
	$(BIN)/python -m pytest -m slow

test-gpu: setup  ## what needs a CUDA device, and the Triton kernels on it rather than in their interpreter
	$(BIN)/python -m pytest -m gpu --ignore-glob='*_triton.py'
	@# Side by side: most of the time goes into compiling, which is one thread's work.
	$(MAKE) --jobs --output-sync $(TRITON_TESTS) $(GPU_TESTS:=-gpu)

$(TRITON_TESTS): setup
	$(BIN)/python -m pytest -m "not gpu" -k triton $@

$(GPU_TESTS:=-gpu): %-gpu: setup
	$(BIN)/python -m pytest -m gpu $*

test-all: setup  ## everything but conformance
	$(BIN)/python -m pytest

conformance: setup  ## the suites that transformers has for its own models, over every model of the zoo
	$(BIN)/python tests/conformance/library.py
	$(BIN)/python -m pytest tests/conformance/conformance.py -rfEsx --no-fold-skipped

lint: setup  ## style and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: setup  ## apply style and format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

fuzz: setup  ## damage 110,000 NES files at random and read them
	NES_FUZZ_EXAMPLES=110000 $(BIN)/python -m pytest tests/data/nes/test_fuzz.py

bench: setup  ## speed and memory against peers, into benchmarks/RESULTS.md
	$(BIN)/seqzoo bench

bench-gpu: setup  ## the same on a GPU: kernels against attention and peers, training, generation; some minutes
	$(BIN)/seqzoo bench gpu kernel_resources

clean:  ## remove the virtual environment and caches
	rm -rf $(VENV) .pytest_cache .ruff_cache build dist
