"""What tests share: one Ray for the whole suite, a small packed pool, an S3, and the real MRI slices."""

from __future__ import annotations

import logging
import os
import re
import socket
import uuid
from pathlib import Path

import pytest

from xal_ray import config
from xal_ray.places import place
from xal_ray.progress import QUIET

ROOT = Path(__file__).resolve().parents[1]
REAL_MANIFEST = ROOT.parent / "shared" / "data" / "brain_tumor_t1ce" / "manifest.csv"

# Processes that a test starts inherit these; two cores are shared by all that runs.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# S3 is a server on this machine, for all processes of the suite: Ray's workers inherit what is set before Ray
# starts. It is started by the first test that needs it; until then, and instead of any real one, there is
# nobody at this port, which is kept free for it.
_S3_PORT_KEEPER = socket.socket()
_S3_PORT_KEEPER.bind(("127.0.0.1", 0))
S3_PORT = _S3_PORT_KEEPER.getsockname()[1]
os.environ |= {
    "AWS_ENDPOINT_URL": f"http://127.0.0.1:{S3_PORT}",
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}
for _name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3"):
    os.environ.pop(_name, None)

# The files that take longest, in this order: two processes that take a file each end at about the same time.
LONG = (
    "test_sweep_kinds",
    "test_training_resume",
    "test_kill",
    "test_benchmarks",
    "test_three_hosts",
    "test_readme",
    "test_canary",
    "test_sweep",
    "test_kill_sweep",
    "test_recipes",
    "test_aws_launch",
    "test_batch_run",
    "test_open_ends",
    "test_actors",
    "test_fit",
    "test_training",
    "test_object_store",
    "test_loop",
    "test_nodes",
    "test_mri",
    "test_data_sets",
    "test_inference",
    "test_scoring",
)

# A file whose tests are all slow.
ALL_SLOW = re.compile(r"^pytestmark = (\[\s*)?pytest\.mark\.slow\b", re.MULTILINE)

RAY = config.Ray(num_cpus=6, num_actors=2, object_store_mb=200, stall_timeout_s=120)


def pytest_ignore_collect(collection_path, config):
    """Files of slow tests alone are not imported where slow tests are left out: most of them import torch."""
    if "not (slow" in config.option.markexpr and collection_path.suffix == ".py":
        return bool(ALL_SLOW.search(collection_path.read_text(encoding="utf-8"))) or None
    return None


def pytest_collection_modifyitems(items):
    """Put the long files first."""
    places = {name: number for number, name in enumerate(LONG)}
    items.sort(key=lambda item: places.get(item.path.stem, len(LONG)))


@pytest.fixture(scope="session")
def ray_session():
    """One Ray for the whole suite, with more logical CPUs than cores, and its actors.

    Actors take seconds to start. So those of a run, a pass or a sweep that is called without actors are the
    suite's, which stay warm from one test to the next.
    """
    from xal_ray.engine import session
    from xal_ray.engine.actors import WarmActors
    from xal_ray.engine.context import open_context

    session.start(RAY)
    with pytest.MonkeyPatch.context() as patch:
        warm = WarmActors()

        def open_shared(*words, actors=None, **options):
            return open_context(*words, actors=warm if actors is None else actors, **options)

        for module in ("xal_ray.loop.rounds", "xal_ray.loop.score_pool", "xal_ray.sweep.run"):
            patch.setattr(f"{module}.open_context", open_shared)
        yield RAY
        warm.release()
    session.stop()


@pytest.fixture(scope="session")
def stages(ray_session):
    """What stages are given; its actors are the suite's."""
    from xal_ray.loop import rounds

    with rounds.open_context(ray_session, QUIET) as context:
        yield context


@pytest.fixture(scope="session")
def s3_server():
    """The endpoint of an S3 on this machine."""
    from moto.server import ThreadedMotoServer

    _S3_PORT_KEEPER.close()
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=S3_PORT, verbose=False)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server.start()
    yield f"http://127.0.0.1:{S3_PORT}"
    server.stop()


@pytest.fixture
def s3_bucket(s3_server):
    """A new, empty bucket as a place."""
    bucket = place(f"s3://test-{uuid.uuid4().hex[:12]}")
    bucket.fs.call_s3("create_bucket", Bucket=bucket.name)
    return bucket


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
    from xal_ray.engine.context import open_context
    from xal_ray.engine.prepare import prepare

    with open_context(ray_session, QUIET) as context:
        return prepare(phantom_settings, tmp_path_factory.mktemp("pools") / "phantom", context)


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
        # Of maps of 2 x 2 cells many are 0 in all of them.
        "score": {"batch_size": 8, "rows_per_shard": 16, "max_error_fraction": 0.9},
        "select": {"initial_labels": 12, "query_size": 6},
        "ray": RAY.model_dump(),
    }


@pytest.fixture(scope="session")
def real_manifest():
    """The manifest of the real MRI slices."""
    if not REAL_MANIFEST.is_file():
        pytest.skip(f"the real MRI slices are not at {REAL_MANIFEST}")
    return REAL_MANIFEST
