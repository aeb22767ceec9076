# All targets set themselves up: a machine with Python 3.11 or newer and make is enough.
PYTHON ?= python3
BIN = .venv/bin
STAMP = .venv/.installed
TASK = $(BIN)/python -m hfld_lite

.DEFAULT_GOAL := help
.PHONY: help setup demo test soak notebooks exercises book slides lab bench clean

help:  ## list the targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-9s %s\n", $$1, $$2}'

setup: $(STAMP)  ## make .venv and install what constraints.txt pins

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; $(PYTHON) is older or missing. Try: make setup PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -m venv .venv || \
	  { echo "The virtual environment could not be made; on Debian or Ubuntu install python3-venv."; exit 1; }
	@echo "installing into .venv (a few minutes)"
	@$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

# What a target does stands in hfld_lite/__main__.py, for systems without make.
demo: $(STAMP)  ## train the chain on simulated tiles, about 3 minutes (FRESH=1 to redo it)
	@$(TASK) demo $(if $(FRESH),--fresh)

test: $(STAMP)  ## check the style, run all tests and all notebooks
	@$(TASK) test

soak: $(STAMP)  ## kill 20 trainings and a watch, damage 2,000 files, and print the outcome
	@$(TASK) soak

notebooks: $(STAMP)  ## execute all notebooks anew and store their outputs
	@$(TASK) notebooks

exercises: $(STAMP)  ## make the learners' notebooks and hints from notebooks/solutions/
	@$(TASK) exercises

book: $(STAMP)  ## make the course as pages that need no Python: build/book/index.html
	@$(TASK) book

slides: $(STAMP)  ## make slides of the notebooks that need no network: build/slides/index.html
	@$(TASK) slides

lab: $(STAMP)  ## open JupyterLab on the first notebook
	@$(TASK) lab

bench: $(STAMP)  ## print the benchmarks' ratios
	@$(TASK) bench

clean:  ## remove .venv and caches; runs/ and data/ stay
	rm -rf .venv build *.egg-info .pytest_cache .ruff_cache .hypothesis
