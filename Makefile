# Needs Python, git and make. Targets that need the environment create it in .venv.
#   make quick      trains four algorithms on three small tasks and prints the report (five minutes on two cores)
#   make test       runs all tests
#   make test-fast  runs the fast tests (a few minutes on two cores)
#   make lint       runs ruff and mypy
#   make format     formats the code and fixes what ruff can fix
#   make docs       builds the documentation site in build/site
#   make clean      removes the environment
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: help quick test test-fast lint format docs clean

help:
	@sed -n "s/^#   make/make/p" Makefile

quick: $(VENV)/installed
	$(BIN)/flowbench run --suite quick --algo flowrl,sac,td3,qvpo --seeds 2
	$(BIN)/flowbench report

test: $(VENV)/installed-test
	$(BIN)/python -m pytest -n auto --dist worksteal

test-fast: $(VENV)/installed-test
	$(BIN)/python -m pytest -n auto --dist worksteal -m "not slow and not faults"

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# A warning, such as a link that leads nowhere, is an error.
docs: $(VENV)/installed-docs
	$(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going --fresh-env -c docs . build/site
	@echo "built build/site/index.html"

$(VENV)/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) --editable .
	@# dm_control requires labmaze, which has no wheel for Python 3.13. The control suite does not use labmaze.
	$(BIN)/python -c "import dm_control" 2>/dev/null || $(PIP) --no-deps dm_control
	touch $@

$(VENV)/installed-test: $(VENV)/installed
	@# The tests compare with Stable-Baselines3. Of the extra peers they do not need SBX, which brings JAX.
	$(PIP) --editable ".[test,log,video,ray]" stable-baselines3
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(PIP) --editable ".[dev]"
	touch $@

$(VENV)/installed-docs: $(VENV)/installed
	$(PIP) --editable ".[docs]"
	touch $@

clean:
	rm -rf $(VENV)
