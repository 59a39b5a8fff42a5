# The two commands of a newcomer: make quickstart, make test.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export GOMP_SPINCOUNT ?= 2000

.PHONY: quickstart test drill check install clean

quickstart: $(VENV)/.installed
	$(BIN)/workbench run quickstart

test: $(VENV)/.installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy --strict
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 3 --dist loadfile $(PYTEST_ARGS)

# Eight workers on one PostgreSQL study, two killed and the database crashed; ten minutes on two cores.
drill: $(VENV)/.installed-dev
	$(BIN)/python -m tests.drill

install: $(VENV)/.installed

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/.installed-dev: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $@ $(VENV)/.installed

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
