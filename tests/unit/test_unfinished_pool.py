"""Two processes at one new place for a pool: one makes it, the other waits for it or is refused."""

import shutil
import threading
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

import xal_ray
from xal_ray import config
from xal_ray.engine import prepare
from xal_ray.engine.actors import WarmActors
from xal_ray.engine.context import StageContext
from xal_ray.errors import PoolError, StageError
from xal_ray.pool import unfinished
from xal_ray.pool.packing import Binding
from xal_ray.pool.schema import SCHEMA_VERSION
from xal_ray.progress import QUIET, Reporter
from xal_ray.storage import write_json
from xal_ray.storage.lock import locked_place

SOURCE = config.Source(kind="phantom", phantom=config.Phantom(num_patients=4))
SETTINGS = config.Pool(image_size=32, source=SOURCE)
OTHER = config.Pool(image_size=48, source=SOURCE)


def begun(settings, out):
    """What a process that makes a pool leaves first."""
    plan = unfinished.make_plan(settings, str)
    unfinished.clear_other_plan(plan, out)
    return unfinished.open_growing(plan, out).path


def test_who_comes_with_other_settings_is_refused_while_the_pool_is_made(tmp_path):
    out = tmp_path / "pool"
    with locked_place(out, what="pool"):
        folder = begun(SETTINGS, out)
        (folder / "rows").mkdir()
        with pytest.raises(
            PoolError, match="another process prepares this pool, with other settings"
        ) as said:
            prepare.prepare(OTHER, out, StageContext(config.Ray(), QUIET))
        assert (folder / "rows").exists()
    assert said.value.exit_code == 2
    assert said.value.details["expected"] == "pool.image_size: 48"
    assert said.value.details["found"] == "pool.image_size: 32"


def test_who_comes_with_the_same_settings_says_so_and_waits_and_uses_the_pool(tmp_path, monkeypatch):
    out, heard, waits = tmp_path / "pool", StringIO(), threading.Event()
    monkeypatch.setattr(prepare, "_make", None)  # it makes nothing itself
    opened = []

    def wait():
        reporter = Reporter(Console(file=heard, width=400))
        opened.append(prepare.prepare(SETTINGS, out, StageContext(config.Ray(), reporter)))

    refuse = prepare.refuse_other_plan
    monkeypatch.setattr(prepare, "refuse_other_plan", lambda *given: (refuse(*given), waits.set()))
    with locked_place(out, what="pool"):
        folder = begun(SETTINGS, out)
        other = threading.Thread(target=wait)
        other.start()
        assert waits.wait(30)
        card = {
            "schema_version": SCHEMA_VERSION,
            "settings": unfinished.plan_of(SETTINGS),
            "source": {"manifest_sha256": None},
        }
        write_json(folder / "card.json", card)
        shutil.move(folder, out)
    other.join(30)
    assert opened[0].path == out
    assert heard.getvalue().count("another process prepares the pool") == 1
    assert not list(tmp_path.glob(".*"))


def test_what_a_killed_process_began_is_kept_by_its_kind_alone(tmp_path):
    out = tmp_path / "pool"
    (begun(SETTINGS, out) / "rows").mkdir()
    assert (begun(SETTINGS, out) / "rows").exists()
    assert not (begun(OTHER, out) / "rows").exists()


def test_an_actor_of_a_killed_process_writes_nothing_into_the_pool_of_the_next(tmp_path):
    out = tmp_path / "pool"
    plans = [unfinished.make_plan(settings, str) for settings in (SETTINGS, OTHER)]
    begun(SETTINGS, out)
    binding = plans[0].binding(out)
    binding.check()
    begun(OTHER, out)
    with pytest.raises(StageError, match="another process's now"):
        binding.check()
    with pytest.raises(StageError, match="another process's now"):
        Binding(tmp_path / "gone" / "plan.json", binding.plan, "").check()


@pytest.mark.slow
def test_a_place_that_holds_something_else_is_refused_and_one_with_a_lease_alone_is_not(tmp_path, s3_bucket):
    (tmp_path / "file").write_text("thesis")
    (tmp_path / "folder").mkdir()
    unfinished.refuse_strangers(tmp_path / "folder")
    (tmp_path / "folder" / "thesis.txt").write_text("thesis")
    for name in ("file", "folder"):
        with pytest.raises(PoolError, match="holds something else"):
            unfinished.refuse_strangers(tmp_path / name)
    with locked_place(s3_bucket / "pool", what="pool"):
        unfinished.refuse_strangers(s3_bucket / "pool")
        begun(SETTINGS, s3_bucket / "pool")
        unfinished.refuse_strangers(s3_bucket / "pool")
        with pytest.raises(PoolError, match="with other settings"):
            unfinished.refuse_other_plan(unfinished.make_plan(OTHER, str), s3_bucket / "pool")


def test_a_place_that_nothing_can_be_renamed_into_is_refused_before_an_image_is_decoded(
    tmp_path, monkeypatch
):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for place in (Path(), tmp_path / "here", Path("/proc")):
        with pytest.raises(PoolError, match="can't be put in this folder's place"):
            unfinished.refuse_strangers(place)


def test_a_link_to_an_empty_folder_stands_for_that_folder(tmp_path, monkeypatch):
    (tmp_path / "scratch" / "pool").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "scratch" / "pool")
    made = []
    monkeypatch.setattr(prepare, "_make", lambda plan, out, *_, **__: made.append(out))
    monkeypatch.setattr(prepare, "open_pool", lambda out: out)
    prepare.prepare(SETTINGS, tmp_path / "link", StageContext(config.Ray(), QUIET))
    assert made == [tmp_path / "scratch" / "pool"]


def test_a_prepare_without_a_context_opens_one_of_its_own_and_ends_it(tmp_path, monkeypatch):
    """A user of the Python API has settings and a place."""
    given, released = [], []
    monkeypatch.setattr(prepare, "_make", lambda plan, out, context, check_lock: given.append(context))
    monkeypatch.setattr(prepare, "open_pool", lambda out: out)
    monkeypatch.setattr(WarmActors, "release", lambda actors: released.append(actors))

    assert xal_ray.prepare(SETTINGS, tmp_path / "pool") == tmp_path / "pool"
    (context,) = given
    assert context.resources == config.Ray()
    assert released == [context.actors]
