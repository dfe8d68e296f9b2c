# One way in: quickstart, test, check. Each sets up .venv from the pinned constraints first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: quickstart test check format clean

quickstart: $(READY)  ## run the main job on generated images; ends with runs/quickstart/report.html
	$(BIN)/xal-ray run configs/quickstart.yaml

test: $(READY)  ## all tests, in two processes: many of them wait for Ray's
	$(BIN)/python -m pytest -n 2 --dist loadfile

check: $(READY)  ## lint, format, types, import layers, fast tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q -m "not slow and not ray and not fault and not e2e" --durations=3

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dicom,nifti,lite,s3,gs,optuna,mlflow,cluster,dev]"
	touch $(READY)

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
