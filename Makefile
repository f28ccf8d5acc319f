# Needs Python >= 3.11 and make; everything else goes into .venv.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
INSTALLED := .venv/.installed

.DEFAULT_GOAL := help
.PHONY: help demo test slow check format bench clean

help:  ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# Once, and again whenever what is to be installed has changed.
$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]' -c constraints.txt
	@touch $@

demo: $(INSTALLED)  ## Train one generator on the flights of three airports and write synthetic ones
	rm -rf build/demo
	$(BIN)/python examples/demo_data.py build/demo
	$(BIN)/genesis federated simulate build/demo/airports/*.csv --method tvae --rounds 5 \
		--local-epochs 10 --seed 0 --discrete-columns month --output build/demo/synthetic.csv \
		--model build/demo/flights.model --json build/demo/rounds.json \
		--holdout build/demo/holdout.csv --target arr_delay --report build/demo/report.html
	head -n 5 build/demo/synthetic.csv

# Two processes of one thread each: the tests are many and small.
test: $(INSTALLED)  ## Run the tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

slow: $(INSTALLED)  ## Run the tests that take minutes
	$(BIN)/python -m pytest -m slow

check: $(INSTALLED)  ## Check style, types and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(INSTALLED)  ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Hours for Adult: `make bench TABLE=adult.csv TARGET=income`.
bench: $(INSTALLED)  ## Run the benchmarks of docs/benchmarks.md on a TABLE with a TARGET column
	$(BIN)/python -m benchmarks.steps --table $(TABLE)
	$(BIN)/python -m benchmarks.fit $(TABLE)
	$(BIN)/python -m benchmarks.memory
	$(BIN)/python -m benchmarks.quick_fits $(TABLE) --target $(TARGET)
	$(BIN)/python -m benchmarks.federation $(TABLE) --target $(TARGET)

clean:  ## Remove everything that make made
	rm -rf .venv build dist *.egg-info .coverage .hypothesis .import_linter_cache \
		.mypy_cache .pytest_cache .ruff_cache
