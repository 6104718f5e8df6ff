# Each target sets up what it needs. PYTHON names the interpreter that makes the environment.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help demo test test-slow check bench clean

help:
	@echo "make demo       the whole way on the bundled images, then open demo-run/report.html"
	@echo "make test       checks and fast tests"
	@echo "make test-slow  fuzzing, kill sweeps, integrations, several processes"
	@echo "make check      ruff, mypy, import-linter"
	@echo "make bench DATA=stage1_train TRUTH=colours.csv   modalities against the known colours of DSB 2018"
	@echo "make clean      remove the environment, caches and demo-run"

# A file of its own: an environment whose making was cut off has a python but no pip.
$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "nucstyle needs Python 3.11 or newer; run: make PYTHON=/path/to/python3.11 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/.created
	$(BIN)/python -m pip install --quiet -c constraints.txt -e .
	@touch $@

$(VENV)/.installed-test: pyproject.toml constraints.txt | $(VENV)/.created
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[test]'
	@touch $@ $(VENV)/.installed

demo: $(VENV)/.installed
	$(BIN)/nucstyle demo --out demo-run --overwrite

check: $(VENV)/.installed-test
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

# One torch thread a worker: two workers on two cores slow each other down otherwise.
test: check
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/pytest -n 2

test-slow: $(VENV)/.installed-test
	$(BIN)/pytest -m slow

bench: $(VENV)/.installed-test
	$(BIN)/python benchmarks/modality.py $(DATA) $(TRUTH)

clean:
	rm -rf $(VENV) demo-run .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
