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


BASE = {"name": "x", "select": {"weight": 0.1}}


@pytest.mark.parametrize(
    ("overrides", "blamed", "said"),
    [
        (["seed=3", "select.weight=2"], [1], "'select.weight' does not fit"),
        (["select.weight=2", "select.weight=3"], [1], "found:    3"),
        (["select.weight="], [0], "valid number"),
        (["seed=3", "roi.source=none"], [1], "select.strategy=dual needs regions of interest"),
        (["select.strategy=bald", "score.mc_samples=1"], [0, 1], "score.mc_samples is 1"),
        (["pool.splits.val=0.9"], [0], "val + test must stay below 1"),
        (["name.x=3"], [0], "'name' does not fit"),
        (["pool.dicom.window=brain"], [0], "'pool.dicom.window' does not fit"),
        (["ray.num_actors=x"], [0], "a valid integer, unable to parse string as an integer; or: Input"),
        (["sweep.params={a: {b: 1}}"], [0], "'sweep.params.a' does not fit"),
        (["seed=[1"], [0], "not valid YAML"),
        (["seed"], [0], "key=value"),
    ],
)
def test_an_error_that_a_set_makes_stands_there_and_not_in_the_file(overrides, blamed, said):
    with pytest.raises(ConfigError) as caught:
        build_config(BASE, overrides, where="base.yaml")
    assert caught.value.details["where"] == " and ".join(f"--set {overrides[number]}" for number in blamed)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("pool.path=ftp://me:secret@x/y", "can't be used"),
        ("pool.compare_with=[s3://me:secret@x/y]", "malformed"),
    ],
)
def test_an_error_of_a_place_names_the_set_and_no_password(text, said):
    with pytest.raises(ConfigError, match=said) as caught:
        build_config(BASE, ["seed=3", text], where="base.yaml")
    assert caught.value.details["where"] == f"--set {text.partition('=')[0]}=..."
    assert caught.value.details["next"]
    assert "secret" not in str(caught.value)
    with pytest.raises(ConfigError, match=said) as caught:
        build_config({"name": "x", "pool": {"path": "ftp://x"}} if "ftp" in text else BASE, [text])
    assert caught.value.details["where"]


def test_an_error_of_the_file_stands_there_whatever_is_set():
    for overrides in ([], ["seed=3"], ["seed=3", "select.query_size=5"]):
        with pytest.raises(ConfigError) as caught:
            build_config({"name": "x", "select": {"weight": 2}}, overrides, where="base.yaml")
        assert caught.value.details["where"] == "base.yaml"


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("selct.weight=1", "select.weight"),
        ("selct.wieght=1", "select.weight"),
        ("select.wieght=1", "select.weight"),
        ("weight=1", "select.weight"),
        ("pool.val=0.1", "pool.splits.val"),
        ("pool.source.columns.lable=class", "pool.source.columns.label"),
    ],
)
def test_an_unknown_key_of_a_set_is_answered_with_the_whole_key(text, meant):
    with pytest.raises(ConfigError, match="unknown key") as caught:
        build_config(BASE, [text], where="base.yaml")
    assert caught.value.details["where"] == f"--set {text}"
    assert caught.value.details["next"] == f"did you mean '{meant}'?"


def test_a_value_that_does_not_fit_is_answered_with_the_default():
    with pytest.raises(ConfigError) as caught:
        build_config(BASE, ["select.weight=2"])
    assert caught.value.details["next"] == "correct it; the default is select.weight=0.5"


def test_a_section_and_a_list_say_how_they_are_set():
    for text, next_step in (
        ("select=dual", "--set select.strategy=VALUE"),
        ("pool.classes=a,b", "--set 'pool.classes=[a,b]'"),
    ):
        with pytest.raises(ConfigError) as caught:
            build_config(BASE, [text])
        assert next_step in str(caught.value.details["next"])


@pytest.mark.parametrize(
    "text", ["[no, yes]", "[0, 1]", "[007, 1.0]", "[True, off]", "[2020-01-01, 'on']", "[null, x]"]
)
def test_names_stay_as_they_are_written(text, tmp_path):
    """YAML takes `no` for False, and 007 for 7."""
    expected = tuple(word.strip(" '") for word in text.strip("[]").split(","))
    (tmp_path / "c.yaml").write_text(
        f"name: 2024\npool:\n  classes: {text}\n  source: {{columns: {{label: 1}}}}\ntrain: {{amp: no}}\n"
    )
    for config in (
        load_config(tmp_path / "c.yaml"),
        build_config(
            {"name": "2024"}, [f"pool={{classes: {text}, source: {{columns: {{label: 1}}}}}}", "train.amp=no"]
        ),
        build_config(
            {"name": "2024"}, [f"pool.classes={text}", "pool.source.columns.label=1", "train.amp=no"]
        ),
    ):
        assert config.pool.classes == expected
        assert (config.name, config.pool.source.columns.label, config.train.amp) == ("2024", "1", False)
    assert build_config(BASE, ["pool.classes=null"]).pool.classes is None


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
            {
                "name": "x",
                "train": {"init": "scratch"},
                "model": {"freeze": "backbone", "weights": "imagenet"},
            },
            "train.init=scratch would keep random features",
        ),
        ({"name": "x", "model": {"freeze": "backbone"}}, "model.freeze=backbone with model.weights=none"),
        (
            {"name": "x", "train": {"init": "previous"}, "model": {"freeze": "backbone", "weights": "none"}},
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


def test_each_training_worker_needs_two_images_of_a_minibatch():
    tree = {"name": "a", "train": {"num_workers": 3, "minibatch_size": 6}}
    assert build_config(tree).train.num_workers == 3
    with pytest.raises(ConfigError, match=r"set train\.minibatch_size=6 or more"):
        build_config(tree, ["train.minibatch_size=5"])
