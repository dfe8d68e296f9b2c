from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from xal_ray.config import Config, build_config, load_config
from xal_ray.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]


def test_an_unknown_key_is_named_with_its_nearest_match():
    with pytest.raises(ConfigError) as caught:
        build_config({"name": "x", "select": {"qurey_size": 3}})
    assert "unknown key 'select.qurey_size'" in str(caught.value)
    assert "did you mean 'select.query_size'?" in str(caught.value)


def test_an_unknown_key_at_the_top_is_named():
    with pytest.raises(ConfigError, match="did you mean 'select'"):
        build_config({"name": "x", "selekt": {}})


def test_set_overrides_nested_keys_and_reads_yaml_values():
    config = build_config(
        {"name": "x", "select": {"weight": 0.1}},
        ["select.weight=0.25", "pool.classes=[a, b]", "train.amp=false"],
    )
    assert config.select.weight == 0.25
    assert config.pool.classes == ("a", "b")
    assert config.train.amp is False


def test_overrides_leave_the_given_tree_alone():
    tree = {"name": "x", "select": {"weight": 0.1}}
    build_config(tree, ["select.weight=0.9"])
    assert tree == {"name": "x", "select": {"weight": 0.1}}


@pytest.mark.parametrize("text", ["select.weight", "=3", " =3"])
def test_a_set_without_key_or_value_is_refused(text):
    with pytest.raises(ConfigError, match="key=value"):
        build_config({"name": "x"}, [text])


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({}, "'name' is missing"),
        ({"name": "x", "select": {"weight": 1.5}}, "select.weight"),
        ({"name": "x", "select": {"query_size": 0}}, "select.query_size"),
        ({"name": "../x"}, "name"),
        ({"name": "x", "model": {"backbone": "resnet9000"}}, "model.backbone"),
        ({"name": "x", "roi": {"source": "none"}}, "select.strategy=dual needs regions of interest"),
        ({"name": "x", "pool": {"splits": {"val": 0.5, "test": 0.5}}}, "below 1"),
        (
            {"name": "x", "train": {"init": "scratch"}, "model": {"freeze": "backbone"}},
            "random features",
        ),
    ],
)
def test_values_that_do_not_fit_are_refused(tree, message):
    with pytest.raises(ConfigError) as caught:
        build_config(tree)
    assert message in str(caught.value)


def test_a_config_is_immutable():
    config = build_config({"name": "x"})
    with pytest.raises(ValidationError):
        config.seed = 3  # type: ignore[misc]


def test_identity_ignores_names_places_and_resources_and_nothing_else():
    base = build_config({"name": "a"})
    same = build_config({"name": "b", "ray": {"num_actors": 7}, "pool": {"path": "elsewhere"}})
    assert base.identity() == same.identity()
    for override in (
        "seed=1",
        "select.weight=0.1",
        "train.max_steps=3",
        "score.batch_size=8",
        "num_rounds=2",
    ):
        assert build_config({"name": "a"}, [override]).identity() != base.identity(), override


def test_a_missing_file_and_a_file_that_is_not_yaml_are_explained(tmp_path):
    with pytest.raises(ConfigError, match="can't be read"):
        load_config(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("a: [1")
    with pytest.raises(ConfigError, match="not valid YAML"):
        load_config(tmp_path / "bad.yaml")
    (tmp_path / "list.yaml").write_text("- 1")
    with pytest.raises(ConfigError, match="not a mapping"):
        load_config(tmp_path / "list.yaml")


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.name)
def test_shipped_configs_are_valid_and_survive_a_round_trip(path):
    config = load_config(path)
    again = Config.model_validate(yaml.safe_load(yaml.safe_dump(config.model_dump(mode="json"))))
    assert again == config
