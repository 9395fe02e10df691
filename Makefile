# Every target sets up what it needs in .venv; ARGS is handed on to the command.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
SCVI_READY := .venv-scvi/.ready

.PHONY: all demo test test-scvi lint docs bench clean
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

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(READY)
	$(BIN)/sphinx-build -W --keep-going -n -b html docs docs/_build/html $(ARGS)

bench: $(READY)
	$(BIN)/pip install -c constraints.txt -e ".[bench]"
	$(BIN)/python tests/benchmarks/speed.py --output docs/benchmarks/cpu.md $(ARGS)
	$(BIN)/python -c "import sys, torch; sys.exit(torch.cuda.is_available())" || \
		$(BIN)/python tests/benchmarks/speed.py --device cuda --output docs/benchmarks/gpu.md $(ARGS)

clean:
	rm -rf .venv .venv-scvi docs/_build build dist *.egg-info
