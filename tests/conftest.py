"""What tests share: one local Ray for the whole suite, a small packed pool, and the real MRI slices."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from xal_ray import config
from xal_ray.progress import QUIET

ROOT = Path(__file__).resolve().parents[1]
REAL_MANIFEST = ROOT.parent / "shared" / "data" / "brain_tumor_t1ce" / "manifest.csv"

# Processes that a test starts inherit these; two cores are shared by all that runs.
os.environ.setdefault("OMP_NUM_THREADS", "1")

RAY = config.Ray(num_cpus=6, num_actors=2, object_store_mb=200, stall_timeout_s=120)


@pytest.fixture(scope="session")
def ray_session():
    """One Ray for the whole suite, with more logical CPUs than cores."""
    from xal_ray.engine import session

    session.start(RAY)
    yield RAY
    session.stop()


@pytest.fixture(scope="session")
def phantom_settings():
    return config.Pool(
        image_size=64,
        source=config.Source(
            kind="phantom", phantom=config.Phantom(num_patients=40, images_per_patient=2, seed=5)
        ),
        rows_per_part=24,
    )


@pytest.fixture(scope="session")
def phantom_pool(tmp_path_factory, ray_session, phantom_settings):
    """80 generated images of 64 px, 2 x 2 cells of a map, in four parts, with lesions. Read only."""
    from xal_ray.engine.prepare import prepare

    return prepare(phantom_settings, tmp_path_factory.mktemp("pools") / "phantom", ray_session, QUIET)


@pytest.fixture(scope="session")
def tiny_run_of():
    """Gives the configuration tree of a run on a pool that takes seconds."""
    return _tiny_run


@pytest.fixture
def tiny_run(phantom_pool):
    """The configuration tree of a run on `phantom_pool` that takes seconds."""
    return _tiny_run(phantom_pool)


def _tiny_run(pool):
    return {
        "name": "tiny",
        "num_rounds": 2,
        "pool": {"path": str(pool.path)},
        "model": {"backbone": "efficientnet_lite0", "weights": "imagenet"},  # starts in half the time
        "train": {"max_steps": 4, "eval_every_steps": 2, "minibatch_size": 8, "num_threads": 1},
        "score": {"batch_size": 8, "rows_per_shard": 16},
        "select": {"initial_labels": 12, "query_size": 6},
        "ray": RAY.model_dump(),
    }


@pytest.fixture(scope="session")
def real_manifest():
    """The manifest of the real MRI slices."""
    if not REAL_MANIFEST.is_file():
        pytest.skip(f"the real MRI slices are not at {REAL_MANIFEST}")
    return REAL_MANIFEST
