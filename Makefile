# make train   set up and train the default recipe          make setup   the set-up alone
# make test    set up and run every check and the tests     make help    all targets

PYTHON ?= python3
BIN := .venv/bin
RUN := runs/text-masked
# More workers than cores: for a quarter of their time tests wait, for processes that start or that are killed.
JOBS ?= $(shell echo $$(( ($$(getconf _NPROCESSORS_ONLN) * 3 + 1) / 2 )))
REV ?= HEAD~1
SOURCES := src tests bench scripts/same_bits

.PHONY: train test test-slow same-bits setup check bench docs notebooks format help clean

train: .venv/.ready  ## train the default recipe on the standard library's source (a few minutes on two cores)
	$(BIN)/seedfast train text-masked --out $(RUN)

# Files in their order: those of many small tests are no shorter than those of few long ones, and the last are short.
test: .venv/.ready-dev check  ## every check, then the quick tests in parallel
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder $(PYTEST_FLAGS)

test-slow: .venv/.ready-dev  ## the long campaigns: gigabyte corpora, many kills, trained bars, all families
	$(BIN)/python -m pytest -m slow

same-bits: .venv/.ready-dev  ## train every recipe here and at REV (HEAD~1), and compare every bit
	$(BIN)/python scripts/same_bits $(REV)

setup: .venv/.ready-dev  ## create .venv and install everything that training, tests and checks need

check: .venv/.ready-dev  ## style, types and the floors of the house
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: .venv/.ready-dev  ## speed and quality against plain PyTorch, side by side
	$(BIN)/python bench/loop_overhead.py

docs: .venv/.ready-docs  ## the documentation as a site in build/site; a warning is an error
	$(BIN)/mkdocs build --strict --clean

notebooks: .venv/.ready-docs  ## run the notebooks of the documentation, and store what they print
	$(BIN)/jupyter-nbconvert --to notebook --execute --inplace --ExecutePreprocessor.record_timing=False docs/notebooks/*.ipynb

format: .venv/.ready-dev  ## let ruff lay out the code
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 14

clean:  ## remove the environment and caches; runs are kept
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

.venv/bin/pip:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "seedfast needs Python 3.11 or newer; say make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv

.venv/.ready: pyproject.toml constraints.txt | .venv/bin/pip
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

.venv/.ready-dev: .venv/.ready
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

.venv/.ready-docs: .venv/.ready
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	touch $@
