# One way in: quickstart, test, check. Each sets up .venv from the pinned constraints first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# Where Python is told to write no bytecode, each of the hundreds of processes of the tests would compile all of ours.
export PYTHONDONTWRITEBYTECODE :=

# What `make check` leaves out.
SLOW := slow or ray or fault or e2e

# `make test` counts which lines the fast tests reach. It makes them take half as long again, so `make check` does not.
COVERAGE := $(if $(filter test,$(MAKECMDGOALS)),--cov --cov-report=term)

.PHONY: quickstart test fast slow check lint format docs clean

quickstart: $(READY)  ## run the main job on generated images; ends with runs/quickstart/report.html
	$(BIN)/xal-ray run configs/quickstart.yaml

# Make runs a target once: `make check test` runs the fast tests once.
test: fast slow  ## all tests, and the coverage of the fast ones

fast: $(READY)
	$(BIN)/python -m pytest -q -n 2 -m "not ($(SLOW))" --durations=3 $(COVERAGE)

slow: $(READY)  ## in two processes; tests/conftest.py says which files come first
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "$(SLOW)"

check: lint fast  ## lint, format, types, import layers, fast tests

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --num-workers 2
	$(BIN)/lint-imports

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(READY)  ## writes docs/reference from the code
	$(BIN)/python docs/generate.py

# uv installs what pip would, on all cores and in a third of the time. Where it can't be had, or does not find all
# that pip finds (of pip's settings it is told the index), pip does it.
INSTALLED := --constraint constraints.txt --editable ".[dicom,nifti,matlab,lite,s3,gs,optuna,mlflow,cluster,dev]"

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	@index=$$($(BIN)/python -m pip config list | sed -n "s/^[^=]*\.index-url='\(.*\)'/\1/p" | tail -n 1); \
	$(BIN)/python -m pip install --quiet --constraint constraints.txt uv \
	&& UV_DEFAULT_INDEX=$${index:-https://pypi.org/simple} $(BIN)/uv pip install --quiet --system-certs \
		--compile-bytecode --python $(BIN)/python $(INSTALLED) \
	|| $(BIN)/python -m pip install --quiet $(INSTALLED)
	touch $(READY)

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache .coverage*
