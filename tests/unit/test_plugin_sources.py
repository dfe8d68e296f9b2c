"""A source of another package: ten lines list images, and what it breaks is named before anything is made."""

from __future__ import annotations

import textwrap
import uuid
from pathlib import Path
from types import SimpleNamespace

import pytest

from xal_ray.config import Pool, build_config
from xal_ray.errors import ConfigError, PluginError, PoolError, SourceError
from xal_ray.pool.card import open_prepared, plan_of, readers_of
from xal_ray.pool.sources import read_source

HEAD = "from xal_ray.plugins import source\n\n@source()\ndef scans(pool):\n"
ROWS = """
    '''The scans of a hospital.'''
    for path in sorted(pool.source.path.glob("*.png")):
        yield {"image_id": path.stem, "uri": path, "group_id": path.stem[0], "label": path.stem[0]}
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "scans").mkdir()
    for name in ("a1", "a2", "b1", "b2"):
        (tmp_path / "scans" / f"{name}.png").touch()
    return tmp_path


def pool_of(folder: Path, body: str, head: str = HEAD, **source: object) -> Pool:
    """A pool whose source is a module of its own: Python imports each name once."""
    name = f"plugin_{abs(hash((folder, body, head)))}"
    (folder / f"{name}.py").write_text(head + textwrap.indent(textwrap.dedent(body), "    "))
    return build_config(
        {"name": "x", "pool": {"source": {"kind": f"{name}:scans", "path": "scans", **source}}}
    ).pool


def test_ten_lines_list_images(folder):
    pool = pool_of(folder, ROWS)
    rows = read_source(pool).manifest.to_pylist()
    assert [row["image_id"] for row in rows] == ["a1", "a2", "b1", "b2"]
    assert rows[0]["uri"] == str(folder / "scans" / "a1.png")
    assert {row["roi_state"] for row in rows} == {"not_annotated"}
    assert pool.source.resolved_kind().endswith(":scans")


def test_relative_paths_lie_below_the_source_and_shapes_make_a_region(folder):
    body = "yield {'image_id': 'a', 'uri': 'a1.png', 'group_id': 'g', 'boxes': [[0, 0, 2, 2]]}"
    (row,) = read_source(pool_of(folder, body)).manifest.to_pylist()
    assert row["uri"] == str(folder / "scans" / "a1.png")
    assert (row["roi_state"], row["boxes"]) == ("present", [[0.0, 0.0, 2.0, 2.0]])


def test_a_mask_may_be_a_path_and_blank_text_is_none(folder):
    body = """
        for name in ("a1", "a2"):
            mask = pool.source.path / "b1.png" if name == "a1" else ""
            yield {"image_id": name, "uri": f"{name}.png", "group_id": name, "label": "", "mask_uri": mask}
    """
    rows = read_source(pool_of(folder, body)).manifest.to_pylist()
    assert [row["roi_state"] for row in rows] == ["present", "not_annotated"]
    assert [row["mask_uri"] for row in rows] == [str(folder / "scans" / "b1.png"), None]
    assert {row["label"] for row in rows} == {None}


def test_a_pool_is_bound_to_the_code_and_to_the_options(folder):
    first = plan_of(pool_of(folder, ROWS))["source"]
    assert first.keys() == {"kind"}
    assert ":scans (sha256 " in first["kind"]
    chosen = plan_of(pool_of(folder, ROWS, options={"year": 2024}))["source"]
    assert chosen == {**first, "options": {"year": 2024}}
    assert plan_of(pool_of(folder, ROWS + "\n    # mended"))["source"] != first


@pytest.mark.parametrize("group_by", ["image", "header"])
def test_groups_can_come_from_elsewhere(folder, group_by):
    pool = pool_of(folder, "yield {'image_id': 'a', 'uri': 'a1.png'}").model_copy(
        update={"group_by": group_by}
    )
    assert read_source(pool).manifest["group_id"].to_pylist() == (["a"] if group_by == "image" else [None])


ROW = "{'image_id': 'a', 'uri': 'a1.png', 'group_id': 'g'"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("yield {'image_id': 'a', 'uri': 'a1.png'}", "a row without group_id: row 1"),
        ("yield {'image_id': 'a', 'uri': 'a1.png', 'group_id': None}", "'group_id' is None"),
        ("yield {'image_id': 'a', 'group_id': 'g'}", "a row without uri"),
        (f"yield {ROW}, 'lable': 'x'}}", "did you mean 'label'"),
        (f"yield {ROW}, 'label': 7}}", "another type in label"),
        (f"yield {ROW}, 'mask_uri': 'none.png'}}", "names files that are not there: 1"),
        (f"yield {ROW}, 'reader': 'brat'}}", "did you mean 'brats'"),
        (f"yield {ROW}, 'group_id': ' '}}", "'group_id' is ' '"),
        ("yield {'image_id': 'a', 'uri': '', 'group_id': 'g'}", "'uri' is ''"),
        ("yield {'image_id': 'a', 'uri': 5, 'group_id': 'g'}", "another type in uri"),
        (f"yield {ROW}, 'mask_uri': b'a1.png'}}", "another type in mask_uri"),
        (f"yield {ROW}, 'more_mask_uris': 'a1.png'}}", "another type in more_mask_uris"),
        (f"yield {ROW}, 'boxes': 3}}", "another type in boxes"),
        (f"yield {ROW}, 'label': 'x\\udc80'}}", "not Unicode"),
        ("import sys\nsys.exit(0)", "SystemExit: 0"),
        (
            "import pyarrow\nfrom xal_ray.pool.sources import Listing\n"
            f"return Listing(pyarrow.Table.from_pylist([{ROW}}}]))",
            "gives no manifest",
        ),
        ("yield 'a1.png'", "gives no mapping as row 1"),
        ("raise KeyError('year')", "KeyError: 'year'"),
        ("return 7", "TypeError"),
    ],
)
def test_what_it_breaks_is_named_as_its_own(folder, body, words):
    pool = pool_of(folder, body)
    with pytest.raises(PluginError) as caught:
        read_source(pool)
    assert words in str(caught.value)
    assert caught.value.exit_code == 2
    assert ":scans" in str(caught.value)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (f"yield {ROW}}}\nyield {ROW}}}", "an image_id stands twice"),
        (f"yield {ROW}, 'split': 'trian'}}", "a split is not known"),
        ("return []", "the source holds no image"),
    ],
)
def test_what_every_manifest_owes_is_said_of_the_plugin(folder, body, words):
    with pytest.raises(SourceError, match=words) as caught:
        read_source(pool_of(folder, body))
    assert ":scans (sha256" in str(caught.value)


def test_options_are_not_for_built_in_sources(folder):
    with pytest.raises(ConfigError, match="reads no options"):
        read_source(Pool(source={"kind": "folder", "path": "scans", "options": {"a": 1}}, group_by="image"))


def test_a_record_that_can_not_be_is_refused(folder):
    with pytest.raises(PluginError, match="did you mean 'findings'"):
        pool_of(folder, "return []", HEAD.replace("source()", "source(settings=['finding'])"))


def test_a_pool_is_bound_to_the_code_that_reads_its_rows(folder, monkeypatch):
    reader = folder / f"reader_{uuid.uuid4().hex}.py"
    reader.write_text("from xal_ray.plugins import row_reader\n@row_reader()\ndef read(row, pool): ...\n")
    body = f"yield {ROW}, 'reader': '{reader.stem}:read'}}"
    pool = pool_of(folder, body)
    (version,) = readers_of(read_source(pool).manifest).values()
    assert version.startswith(f"{reader.stem}:read (sha256 ")
    assert readers_of(read_source(pool_of(folder, ROWS)).manifest) == {}
    card = {
        "source": {"manifest_sha256": None, "readers": {f"{reader.stem}:read": version}},
        "settings": plan_of(pool),
    }
    monkeypatch.setattr("xal_ray.pool.card.open_pool", lambda _: SimpleNamespace(card=card))
    assert open_prepared(pool, folder).card is card
    card["source"]["readers"][f"{reader.stem}:read"] = f"{reader.stem}:read (sha256 0123456789abcdef)"
    with pytest.raises(PoolError, match="the code that read the images has changed"):
        open_prepared(pool, folder)
