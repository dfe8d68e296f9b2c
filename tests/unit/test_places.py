import pickle
from pathlib import Path

import pytest
from pydantic import BaseModel

from xal_ray.config import build_config
from xal_ray.errors import ConfigError, SourceError
from xal_ray.places import Place, is_remote, place
from xal_ray.pool.activations import refuse_remote
from xal_ray.pool.sources.common.paths import SourceRoot


def test_a_text_is_a_local_path_or_an_address():
    assert place("runs/a") == Path("runs/a")
    assert not is_remote(place("C:/x"))
    assert not is_remote(place("phantom:000001"))
    address = place("s3://bucket/a//b/./c.tar.gz")
    assert is_remote(address)
    assert str(address) == "s3://bucket/a/b/c.tar.gz"
    assert place(address) is address
    assert (address.name, address.stem, address.suffix) == ("c.tar.gz", "c.tar", ".gz")
    assert str(address.parent / "x" / "y") == str(address.with_name("x") / "y") == "s3://bucket/a/b/x/y"
    assert address.resolve() == address.absolute() == address
    assert str(address.relative_to(place("s3://bucket/a"))) == "b/c.tar.gz"
    assert not address.is_relative_to(place("s3://bucket/a/bc"))
    assert place("s3://bucket").parent == place("s3://bucket/")
    assert Path("/root") / address == address


def test_an_address_can_be_sent_hashed_and_sorted():
    one, two = place("s3://bucket/a"), place("s3://bucket/b")
    assert one.address == "bucket/a"  # kept from now on, and not sent
    assert pickle.loads(pickle.dumps(one)) == one
    assert {one: 1}[place("s3://bucket/a")] == 1
    assert sorted([two, one]) == [one, two]


@pytest.mark.parametrize(
    "text", ["https://host/key?Signature=secret", "s3://", "s3://bucket/../other", "s3://key:secret@bucket/a"]
)
def test_other_addresses_are_refused_without_being_quoted(text):
    with pytest.raises(ConfigError) as caught:
        place(text)
    assert "secret" not in str(caught.value)
    with pytest.raises(ConfigError):
        place("s3://bucket/run") / "../other"


def test_configurations_hold_addresses(tmp_path):
    class Holder(BaseModel):
        path: Place

    assert Holder(path="s3://bucket/a").model_dump(mode="json") == {"path": "s3://bucket/a"}
    tree = {"name": "x", "pool": {"path": "s3://bucket/pool", "source": {"path": "s3://bucket/m.csv"}}}
    settings = build_config(tree)
    assert settings.pool_path() == place("s3://bucket/pool")
    assert build_config(settings.model_dump(mode="json")) == settings
    with pytest.raises(ConfigError, match="cache_activations"):
        refuse_remote(settings.pool_path())
    refuse_remote(tmp_path)


@pytest.mark.parametrize(
    ("text", "relative"),
    [
        ("a/1.png", "a/1.png"),
        ("./a/1.png", "a/1.png"),
        ("s3://bucket/set/a/1.png", "a/1.png"),
        ("a%2Fb c[1].png", "a%2Fb c[1].png"),
    ],
)
def test_a_manifest_in_a_store_names_what_lies_below_it(text, relative):
    root = SourceRoot(place("s3://bucket/set"))
    assert root.locate(text, "row 2") == (f"s3://bucket/set/{relative}", relative)


@pytest.mark.parametrize(
    "text",
    [
        "../other/1.png",
        "a/../../other/1.png",
        "s3://bucket/set/../other/1.png",
        "s3://bucket/settings/1.png",
        "s3://other/set/1.png",
        "gs://bucket/set/1.png",
        "file:///etc/passwd",
        "https://host/set/1.png?Signature=secret",
        "/set/1.png",
        "a//1.png",
        "a\\1.png",
        "s3://bucket/set/",
    ],
)
def test_a_manifest_in_a_store_names_nothing_else(text):
    with pytest.raises(SourceError) as caught:
        SourceRoot(place("s3://bucket/set")).locate(text, "row 2")
    assert "row 2" in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("text", ["s3://bucket/1.png", "gs://bucket/1.png", "file:///etc/passwd"])
def test_a_local_manifest_names_no_address(text, tmp_path):
    with pytest.raises(SourceError):
        SourceRoot(tmp_path).locate(text, "row 2")
