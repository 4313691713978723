# On a machine with Python, git and make, nothing else is needed:
#   make quick   trains four algorithms on three small tasks and prints the table (ten minutes on two cores)
#   make test    runs the tests
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: help quick test lint format clean

help:
	@sed -n "s/^# *//p" Makefile | head -3

quick: $(VENV)/installed
	$(BIN)/flowbench run --suite quick --algo flowrl,sac,td3,qvpo --seeds 2
	$(BIN)/flowbench report

test: $(VENV)/installed-test
	$(BIN)/python -m pytest -n auto --dist worksteal

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(VENV)/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) --editable .
	@# dm_control requires labmaze, which has no wheel for Python 3.13 and which the control suite does not use.
	$(BIN)/python -c "import dm_control" 2>/dev/null || $(PIP) --no-deps dm_control
	touch $@

$(VENV)/installed-test: $(VENV)/installed
	$(PIP) --editable ".[test,peers,log,video,ray]"
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(PIP) --editable ".[dev]"
	touch $@

clean:
	rm -rf $(VENV)
