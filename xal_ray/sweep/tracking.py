"""MLflow, where a sweep names a place for it: each trial is then a run there as well."""

from __future__ import annotations

import importlib.util
import logging
import os
import warnings
from typing import Any

from xal_ray.errors import ConfigError


def check_tracking(uri: str | None, *, ask: bool = True) -> None:
    """Ask MLflow for its experiments, before anything runs.

    Args:
        uri: The tracking URI.
        ask: Whether MLflow may be asked, which makes a database where there is none.

    Raises:
        ConfigError: It is not installed, or does not answer at this place.
    """
    if uri is None:
        return
    if importlib.util.find_spec("mlflow") is None:
        raise ConfigError(
            "sweep.mlflow needs mlflow, which is not installed",
            where="sweep.mlflow",
            next_step="pip install 'xal-ray[mlflow]'",
        )
    if not ask:
        return
    _settle()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the packages that it stands on
            import mlflow

            mlflow.MlflowClient(tracking_uri=uri).search_experiments(max_results=1)
    except Exception as error:
        raise ConfigError(
            "MLflow does not take this tracking URI",
            expected="the address of its server, or sqlite:///FILE (which needs SQLAlchemy)",
            found=f"{uri}: {str(error).splitlines()[0] if str(error) else type(error).__name__}",
            where="sweep.mlflow",
        ) from error


def loggers(uri: str | None, experiment: str) -> list[Any]:
    """Tune's callbacks that write to MLflow; none without a place."""
    if uri is None:
        return []
    _settle()
    from ray.air.integrations.mlflow import MLflowLoggerCallback

    return [MLflowLoggerCallback(tracking_uri=uri, experiment_name=experiment)]


def _settle() -> None:
    """Quiet, and without the report that MLflow sends home when it is imported."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    logging.getLogger("mlflow").setLevel(logging.ERROR)
