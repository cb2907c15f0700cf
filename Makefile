# Two commands matter: `make demo` (the main job on real data) and `make test`. Each sets up all it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Files in the order of tests/conftest.py: those with slow tests first.
PYTEST := $(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder
# Floors, wording and judges: what most changes touch, without the tests that train or start processes.
QUICK := tests/test_architecture.py tests/test_checks.py tests/experiments/claims tests/report/test_builders.py \
	tests/report/test_layout.py tests/report/test_wording.py tests/metrics/test_collapsed.py

.PHONY: help demo test quick attack format results docs site bench dist clean
help:
	@echo "make demo    set up, train on real digits, measure every layer, write runs/digits/report.html"
	@echo "make test    set up, then formatter, linter, type checker and tests"
	@echo "make quick   set up, then linter and the fast tests: under a minute"
	@echo "make attack  set up, then ten times as many damages, kills and hostile inputs as in the tests: about ten minutes"
	@echo "make format  rewrite the code as the formatter wants it"
	@echo "make results  write results/index.html: one page over all stored results, nothing is run"
	@echo "make docs    write the catalogues of metrics and scores again from their registries"
	@echo "make site    build the documentation site, site/index.html"
	@echo "make bench   print the cost of measuring against its floors"
	@echo "make dist    build wheel and source distribution in dist/, and check them"
	@echo "make clean   remove the environment and caches"

demo: $(VENV)/demo-ready
	$(BIN)/collapselab run digits

test: $(VENV)/test-ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	@# A link or a name that does not exist fails here, after about 15 seconds, and not when somebody publishes the site.
	$(MAKE) site
	@# The type checker uses one processor, so it runs beside the tests; what it says comes after them.
	$(BIN)/pyright --pythonpath $(BIN)/python > $(VENV)/pyright.txt & types=$$!; \
	$(PYTEST); tests=$$?; \
	wait $$types; types=$$?; cat $(VENV)/pyright.txt; exit $$((tests | types))

quick: $(VENV)/test-ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(PYTEST) $(QUICK)

attack: $(VENV)/test-ready
	COLLAPSELAB_ATTACK=10 $(PYTEST) tests/attack

format: $(VENV)/test-ready
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

results: $(VENV)/demo-ready
	$(BIN)/collapselab results results

docs: $(VENV)/demo-ready
	$(BIN)/python -m collapselab.metrics.catalogue docs/metrics.md
	$(BIN)/python -m collapselab.transfer.scores.catalogue docs/scores.md

site: $(VENV)/test-ready
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

bench: $(VENV)/test-ready
	$(BIN)/python benchmarks/statistics.py
	$(BIN)/python benchmarks/profile.py
	$(BIN)/python benchmarks/processes.py
	$(BIN)/python benchmarks/training.py
	$(BIN)/python benchmarks/linear_probe.py --shape 2000,512,10

dist: $(VENV)/test-ready
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/twine check --strict dist/*

# An environment is made once and brought up to date when pyproject.toml changes.
$(VENV)/bin/python:
	@echo "Making a virtual environment in $(VENV)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

$(VENV)/demo-ready: pyproject.toml | $(VENV)/bin/python
	@echo "Installing collapselab and what the demo needs (PyTorch is large: a few minutes the first time)"
	$(BIN)/python -m pip install --quiet --editable ".[train]"
	@touch $@

$(VENV)/test-ready: pyproject.toml | $(VENV)/bin/python
	@echo "Installing collapselab and what its tests need (PyTorch is large: a few minutes the first time)"
	$(BIN)/python -m pip install --quiet --editable ".[dev,docs]"
	@touch $@ $(VENV)/demo-ready

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis site
