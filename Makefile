# Every target sets up what it needs in .venv; ARGS is handed on to the command.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
SCVI_READY := .venv-scvi/.ready

.PHONY: all demo test test-scvi test-oldest lint docs figures bench clean
all: $(READY)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -c constraints.txt -e ".[dev]"
	touch $@

demo: $(READY)
	$(BIN)/python -m tcdecomp.demo $(ARGS)

test: $(READY)
	$(BIN)/python -m pytest --numprocesses 2 $(ARGS)

# scvi-tools is large, and pins what the rest does not: it has an environment of its own.
test-scvi: $(SCVI_READY)
	.venv-scvi/bin/python -m pytest tests/scvi_tools $(ARGS)

$(SCVI_READY): pyproject.toml tests/scvi_tools/constraints.txt tests/scvi_tools/requirements.txt
	$(PYTHON) -m venv .venv-scvi
	.venv-scvi/bin/pip install -c tests/scvi_tools/constraints.txt \
		-r tests/scvi_tools/requirements.txt -e .
	touch $@

# The oldest versions that pyproject.toml allows need Python 3.10, and 6 GB for a torch with CUDA.
PYTHON_OLDEST ?= python3.10
OLDEST_READY := .venv-oldest/.ready
# All but the tests of packaging and of frameworks that have no such old version.
OLDEST_TESTS = $(wildcard tests/*/test_*.py tests/test_*.py)
OLDEST_LEFT_OUT = tests/scvi_tools/% tests/adapters/% tests/test_package.py \
	tests/test_example_adapter.py tests/test_docs.py

# That old torch and Lightning warn of their own code.
test-oldest: $(OLDEST_READY)
	.venv-oldest/bin/python -m pytest --numprocesses 2 -W ignore::FutureWarning \
		$(filter-out $(OLDEST_LEFT_OUT),$(OLDEST_TESTS)) \
		tests/adapters/test_plain.py $(wildcard tests/adapters/test_lightning*.py) $(ARGS)

$(OLDEST_READY): pyproject.toml tests/oldest/constraints.txt
	$(PYTHON_OLDEST) -m venv .venv-oldest
	.venv-oldest/bin/pip install -c tests/oldest/constraints.txt \
		-e ".[lightning,numba,plot]" hypothesis pytest pytest-xdist
	touch $@

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The pages of names that are gone would be left.
docs: $(READY)
	rm -rf docs/reference/generated
	$(BIN)/sphinx-build -W --keep-going -n -b html docs docs/_build/html $(ARGS)

# Trains the runs that docs/reproduction/results.csv lacks, then draws. Whatever stops it, it resumes.
figures: $(READY)
	cd docs && OMP_NUM_THREADS=1 ../$(BIN)/python -m reproduction $(ARGS)

bench: $(READY)
	$(BIN)/pip install -c constraints.txt -e ".[bench]"
	$(BIN)/python tests/benchmarks/speed.py --output docs/benchmarks/cpu.md $(ARGS)
	$(BIN)/python docs/pictures/speed.py
	$(BIN)/python -c "import sys, torch; sys.exit(torch.cuda.is_available())" || \
		$(BIN)/python tests/benchmarks/speed.py --device cuda --output docs/benchmarks/gpu.md $(ARGS)
	$(BIN)/python tests/benchmarks/metrics.py

clean:
	rm -rf .venv .venv-scvi .venv-oldest docs/_build docs/reference/generated build dist *.egg-info
