# All targets set themselves up: a machine with Python 3.11 or newer and make is enough.
PYTHON ?= python3
BIN = .venv/bin
STAMP = .venv/.installed
DEMO = runs/demo

.DEFAULT_GOAL := help
.PHONY: help setup demo test soak notebooks exercises lab bench clean

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

demo: $(STAMP)  ## train the chain on simulated tiles, about 3 minutes (FRESH=1 to redo it)
	@if [ -f $(DEMO)/run.json ] && [ -z "$(FRESH)" ]; then \
	  $(BIN)/hfld info $(DEMO) && \
	  echo "This run exists already, with its page $(DEMO)/report.html; redo it with: make demo FRESH=1"; \
	elif [ -d $(DEMO).unfinished ] && [ -z "$(FRESH)" ]; then \
	  echo "resuming the demo that was stopped; start over with: make demo FRESH=1"; \
	  $(BIN)/hfld train --resume $(DEMO); \
	else \
	  $(BIN)/hfld train --preset demo --out $(DEMO) $(if $(FRESH),--fresh); \
	fi

test: $(STAMP)  ## check the style, run all tests and all notebooks
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
# What measures time runs by itself.
	$(BIN)/pytest tests -m timed -rP
	$(BIN)/pytest tests notebooks -m "not timed" --nbval-lax --nbval-current-env \
	  --nbval-cell-timeout=300 --ignore=notebooks/exercises -n 2 --dist loadscope

soak: $(STAMP)  ## kill 20 trainings and a watch, damage 2,000 files, and print the outcome
	$(BIN)/python tests/soak.py --kills 20
	$(BIN)/python tests/soak.py --burst 5000
	HFLD_FUZZ_CASES=2000 $(BIN)/pytest tests/test_fuzz.py -s

notebooks: $(STAMP)  ## execute all notebooks anew and store their outputs
	$(BIN)/python data_scripts/execute_notebooks.py
	$(BIN)/python data_scripts/execute_notebooks.py --solutions

exercises: $(STAMP)  ## make the learners' notebooks and hints from notebooks/solutions/
	$(BIN)/python data_scripts/make_exercises.py

lab: $(STAMP)  ## open JupyterLab on notebooks/
	$(BIN)/jupyter lab --notebook-dir=notebooks

bench: $(STAMP)  ## print the benchmarks' ratios
	@missed=; for program in tests/benchmarks/bench_*.py; do \
	  $(BIN)/python $$program || missed="$$missed $$(basename $$program)"; \
	done; \
	if [ -n "$$missed" ]; then echo "A target was missed, or the program failed:$$missed"; exit 1; fi

clean:  ## remove .venv and caches; runs/ and data/ stay
	rm -rf .venv build *.egg-info .pytest_cache .ruff_cache .hypothesis
