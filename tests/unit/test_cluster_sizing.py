"""A cluster file's machines become the run's resources; what the user set stays."""

from pathlib import Path

import pytest
import yaml

from xal_ray.cluster.files.definition import Definition, read_definition
from xal_ray.cluster.files.sizing import settings_for
from xal_ray.config import build_config

ROOT = Path(__file__).resolve().parents[2]


def launcher(**types):
    nodes = {name: {"max_workers": most, "resources": counted} for name, (most, counted) in types.items()}
    return Definition(Path("c.yaml"), "launcher", "c", {"available_node_types": nodes})


def rayjob(**group):
    whole = {"maxReplicas": 3, "template": {"spec": {"containers": [{}]}}, **group}
    tree = {"spec": {"rayClusterSpec": {"workerGroupSpecs": [whole]}}}
    return Definition(Path("c.yaml"), "rayjob", "c", tree)


def sized(definition, *overrides):
    """The section `ray` of a run that takes the file's settings, and what they were."""
    settings = settings_for(definition, build_config({"name": "x"}, overrides))
    return settings, build_config({"name": "x"}, [*overrides, *settings]).ray


def test_an_actor_for_each_gpu_that_there_may_be():
    _, ray = sized(launcher(head=(0, {"CPU": 0}), a=(4, {"CPU": 4, "GPU": 1}), b=(2, {"CPU": 8, "GPU": 4})))
    assert (ray.address, ray.num_actors, ray.gpus_per_actor) == ("auto", 12, 1)
    assert ray.num_decoders == "auto"
    assert ray.decoder_resources == {}


def test_no_more_machines_are_counted_than_the_cluster_may_have():
    definition = launcher(a=(4, {"GPU": 1}), b=(2, {"GPU": 4}))
    definition.tree["max_workers"] = 3
    assert sized(definition)[1].num_actors == 2 * 4 + 1 * 1


def test_decoders_fill_the_machines_that_are_there_for_them():
    _, ray = sized(launcher(d=(2, {"CPU": 7, "decode": 1})), "ray.cpus_per_decoder=2")
    assert (ray.num_decoders, ray.decoder_resources) == (6, {"decode": 0.001})
    assert ray.num_actors == "auto"


def test_machines_without_gpus_leave_the_actors_to_what_is_found():
    assert sized(launcher(a=(4, {"CPU": 4})))[0] == ["ray.address=auto"]


def test_what_the_user_set_stays():
    definition = launcher(a=(4, {"CPU": 4, "GPU": 1}), d=(2, {"CPU": 8, "decode": 1}))
    _, ray = sized(
        definition,
        "ray.num_actors=3",
        "ray.num_decoders=5",
        "ray.decoder_resources={mine: 1}",
        "ray.gpus_per_worker=0.5",
        "train.num_workers=2",
    )
    assert (ray.num_actors, ray.num_decoders, ray.gpus_per_worker) == (3, 5, 0.5)
    assert (ray.decoder_resources, ray.gpus_per_actor) == ({"mine": 1}, "auto")


@pytest.mark.parametrize(("num_workers", "gpus"), [(0, "auto"), (2, 1), (5, "auto")])
def test_training_gets_gpus_where_there_are_enough(num_workers, gpus):
    _, ray = sized(launcher(a=(4, {"GPU": 1})), f"train.num_workers={num_workers}")
    assert ray.gpus_per_worker == gpus


@pytest.mark.parametrize(
    ("group", "gpus"),
    [
        ({"rayStartParams": {"num-gpus": "2"}}, 6),
        ({"template": {"spec": {"containers": [{"resources": {"limits": {"nvidia.com/gpu": 1}}}]}}}, 3),
        ({"rayStartParams": {"num-gpus": "2"}, "resources": {"GPU": "1"}}, 3),
        ({"rayStartParams": {"num-gpus": "1"}, "numOfHosts": 4}, 12),
    ],
)
def test_a_worker_groups_gpus_are_counted_as_kuberay_does(group, gpus):
    assert sized(rayjob(**group))[1].num_actors == gpus


@pytest.mark.parametrize(
    ("params", "limits"),
    [({"num-cpus": "4"}, {}), ({}, {"cpu": "3500m"}), ({}, {"cpu": 4}), ({}, {"cpu": "4"})],
)
def test_a_worker_groups_cpus_are_counted_as_kuberay_does(params, limits):
    container = {"resources": {"limits": limits}}
    group = {"rayStartParams": {**params, "resources": '"{\\"decode\\": 1}"'}}
    _, ray = sized(rayjob(**group, template={"spec": {"containers": [container]}}))
    assert (ray.num_decoders, ray.decoder_resources) == (24, {"decode": 0.001})


@pytest.mark.parametrize(("name", "actors"), [("aws", 8), ("gcp", 4), ("onprem", "auto"), ("kuberay", 4)])
def test_the_shipped_files_give_settings_that_fit(name, actors, monkeypatch):
    monkeypatch.chdir(ROOT)
    definition = read_definition(ROOT / "cluster" / f"{name}.yaml")
    _, ray = sized(definition)
    assert ray.num_actors == actors
    assert yaml.safe_dump(definition.tree)
