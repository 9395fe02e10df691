# Every target sets up what it needs in .venv; ARGS is handed on to the command.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: all demo test lint docs bench clean
all: $(READY)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -c constraints.txt -e ".[dev]"
	touch $@

demo: $(READY)
	$(BIN)/python docs/demo $(ARGS)

test: $(READY)
	$(BIN)/python -m pytest $(ARGS)

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
	rm -rf .venv docs/_build build *.egg-info
