# Each target makes the virtual environment it needs, once: Python 3.11 or newer and pip are all that must be there.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Two to four processes: each holds torch and some tiny models.
PARALLEL ?= --numprocesses auto --maxprocesses 4 --dist worksteal

.PHONY: demo test test-slow test-long lint docs notebooks clean

demo: $(VENV)/installed-demo
	$(BIN)/mmdatasets demo

test: $(VENV)/installed-dev
	$(BIN)/python -m pytest -m "not slow and not long" $(PARALLEL)

test-slow: $(VENV)/installed-dev
	$(BIN)/python -m pytest -m "slow and not long" $(PARALLEL)

# Fuzzing and soaking: millions of inputs, tens of thousands of batches. The figures are in docs/robustness.md.
test-long: $(VENV)/installed-dev
	$(BIN)/python -m pytest -m long -s

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/installed-dev
	$(BIN)/python -m mkdocs build --strict

# Executes the notebooks and writes their outputs into them.
notebooks: $(VENV)/installed-dev
	$(BIN)/python -m tests.examples.notebooks

clean:
	rm -rf $(VENV) build dist site demo-output example-output .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/created:
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or newer is needed, this is " + sys.version.split()[0] + ": make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/installed-demo: pyproject.toml constraints.txt | $(VENV)/created
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[demo]'
	@touch $@

# What development needs includes what the demo needs.
$(VENV)/installed-dev: pyproject.toml constraints.txt | $(VENV)/created
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[demo,dev]'
	@touch $(VENV)/installed-demo $@
