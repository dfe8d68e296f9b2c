# One way in: quickstart, test, check. Each sets up .venv from the pinned constraints first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: quickstart test check format compiled clean

quickstart: $(READY)  ## run the main job on generated images; ends with runs/quickstart/report.html
	$(BIN)/xal-ray run configs/quickstart.yaml

test: compiled  ## all tests, in two processes; tests/conftest.py says which files come first
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

check: compiled  ## lint, format, types, import layers, fast tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q -n 2 -m "not slow and not ray and not fault and not e2e" --durations=3

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Where Python is told to write no bytecode, each of the hundreds of processes would compile all of ours.
compiled: $(READY)
	$(BIN)/python -m compileall -q xal_ray

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dicom,nifti,matlab,lite,s3,gs,optuna,mlflow,cluster,dev]"
	touch $(READY)

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
