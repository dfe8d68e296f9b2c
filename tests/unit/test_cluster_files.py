"""The shipped cluster files: what they install, what they say, and that Ray and KubeRay take them.

Whether KubeRay knows every field is seen against its own schema, which is not part of this repository:

    kubectl get crd rayjobs.ray.io -o yaml > rayjobs.yaml      # or from KubeRay's release
    KUBERAY_CRD=rayjobs.yaml python -m pytest tests/unit/test_cluster_files.py
"""

import copy
import os
import re
import tomllib
from pathlib import Path

import pytest
import yaml

from xal_ray.cluster.backends import rayjob
from xal_ray.cluster.files.definition import read_definition

ROOT = Path(__file__).resolve().parents[2]
LAUNCHER = ("aws", "gcp", "onprem")
STORE = {"aws": {"s3fs", "boto3"}, "gcp": {"gcsfs"}, "onprem": {"s3fs"}}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(autouse=True)
def _from_the_checkout(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(ROOT)


def text_of(name):
    return (ROOT / "cluster" / f"{name}.yaml").read_text()


def names_of(requirements):
    return {re.match(r"[A-Za-z0-9-]+", one).group(0) for one in requirements}


@pytest.mark.parametrize("name", LAUNCHER)
def test_nodes_get_every_dependency_in_the_pinned_version(name):
    (install,) = [line for line in yaml.safe_load(text_of(name))["setup_commands"] if "pip install" in line]
    words = install.replace('"', "").split()
    where = words.index("--constraint")
    assert words[where + 1] == "~/xal-ray-constraints.txt"
    given = words[where + 2 :]
    assert names_of(given) == names_of(PROJECT["dependencies"]) | STORE[name]
    assert "ray[default,train,tune,data]" in given
    pins = (ROOT / "constraints.txt").read_text().lower().replace("_", "-").split()
    assert names_of(given) <= {pin.split("==")[0] for pin in pins}
    assert yaml.safe_load(text_of(name))["file_mounts"] == {"~/xal-ray-constraints.txt": "constraints.txt"}


@pytest.mark.parametrize("name", [*LAUNCHER, "kuberay"])
def test_a_file_says_what_it_costs_and_what_it_exposes(name):
    comments = "\n".join(line for line in text_of(name).splitlines() if line.startswith("#"))
    assert re.search(r"cost/h = .+\n#\s+\+ ", comments) or "cost/h = hosts" in comments
    assert "What is exposed" in comments
    assert "not encrypted" in comments or "nothing is encrypted" in comments
    assert not re.search(r"[$€]\s?\d|\d\s?(USD|EUR)", comments)  # a formula, not a figure that ages


@pytest.mark.parametrize("name", LAUNCHER)
def test_every_value_to_change_is_marked_and_explained(name):
    lines = text_of(name).splitlines()
    marked = [number for number, line in enumerate(lines) if "CHANGE-ME" in line.partition("#")[0]]
    assert marked or name == "onprem"
    assert "CHANGE-ME" in text_of(name)


def test_spot_workers_start_from_none_and_disks_are_encrypted_on_aws():
    types = yaml.safe_load(text_of("aws"))["available_node_types"]
    for name, node_type in types.items():
        config = node_type["node_config"]
        assert node_type["min_workers"] == 0
        assert all(disk["Ebs"]["Encrypted"] for disk in config["BlockDeviceMappings"])
        assert config["MetadataOptions"]["HttpTokens"] == "required"
        assert config["SecurityGroupIds"]
        is_spot = config.get("InstanceMarketOptions") == {"MarketType": "spot"}
        assert is_spot == (name != "head")
    assert types["head"]["resources"] == {"CPU": 0}
    assert types["decode"]["resources"]["decode"] == 1


def test_hosts_are_found_by_address_with_the_first_autoscaler():
    tree = yaml.safe_load(text_of("onprem"))
    head, worker = tree["head_start_ray_commands"][-1], tree["worker_start_ray_commands"][-1]
    assert head.index("RAY_enable_autoscaler_v2=0") < head.index("ray start")
    for command in (head, worker):
        assert "--node-ip-address=$(hostname -I | cut -d' ' -f1)" in command


@pytest.mark.slow
@pytest.mark.parametrize("name", LAUNCHER)
def test_rays_launcher_takes_the_file_as_it_is_closed(name):
    from ray.autoscaler._private.util import prepare_config, validate_config

    tree = read_definition(ROOT / "cluster" / f"{name}.yaml").tree
    prepared = prepare_config(copy.deepcopy(tree))
    validate_config(prepared)
    for key in ("head_start_ray_commands", "worker_start_ray_commands", "file_mounts"):
        assert prepared[key] == tree[key]


@pytest.mark.slow
def test_rays_schema_is_where_it_is_read_from():
    import ray.autoscaler

    from xal_ray.cluster.files.launcher_rules import _schema_path

    assert _schema_path().samefile(Path(ray.autoscaler.__file__).with_name("ray-schema.json"))


def test_the_rayjob_has_what_the_run_relies_on():
    tree = yaml.safe_load(text_of("kuberay"))
    spec = tree["spec"]
    assert (spec["submissionMode"], spec["shutdownAfterJobFinishes"]) == ("K8sJobMode", True)
    assert spec["backoffLimit"] >= 1
    assert spec["activeDeadlineSeconds"] > 0
    cluster = spec["rayClusterSpec"]
    pinned = next(line for line in (ROOT / "constraints.txt").read_text().split() if line.startswith("ray=="))
    assert f"ray=={cluster['rayVersion']}" == pinned
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["enableInTreeAutoscaling"] is True
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    groups = cluster["workerGroupSpecs"]
    assert [group["minReplicas"] for group in groups] == [0, 0]
    for group in [cluster["headGroupSpec"], *groups]:
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        pod = group["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["serviceAccountName"]
        (container,) = pod["containers"]
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["resources"]["requests"]["memory"] == container["resources"]["limits"]["memory"]


def test_the_rayjob_fits_kuberays_own_schema():
    import jsonschema

    named = os.environ.get("KUBERAY_CRD")
    if not named:
        pytest.skip("KUBERAY_CRD does not name KubeRay's CRD of RayJobs (this file's first lines say how)")
    crd = yaml.load(Path(named).read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    (schema,) = [one["schema"]["openAPIV3Schema"] for one in crd["spec"]["versions"] if one["name"] == "v1"]
    validator = jsonschema.Draft7Validator(strict(schema))
    definition = read_definition(ROOT / "cluster" / "kuberay.yaml")
    _, rendered = rayjob.rendered(definition, {"config.yaml": b"name: x"}, "xal-ray run", "my-run")
    for tree in (yaml.safe_load(text_of("kuberay")), rendered):
        assert [f"{error.json_path}: {error.message[:200]}" for error in validator.iter_errors(tree)] == []
    wrong = copy.deepcopy(rendered)
    wrong["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0]["imag"] = "x"
    assert not validator.is_valid(wrong)


def strict(node):
    """Kubernetes' schema as JSON schema, in which a field that is not named is an error."""
    if isinstance(node, list):
        return [strict(one) for one in node]
    if not isinstance(node, dict):
        return node
    closed = {key: strict(value) for key, value in node.items()}
    open_ended = node.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in node
    if isinstance(node.get("properties"), dict) and not open_ended:
        closed["additionalProperties"] = False
    if node.get("x-kubernetes-int-or-string"):
        closed.pop("type", None)
        closed.setdefault("anyOf", [{"type": "integer"}, {"type": "string"}])
    if node.get("nullable") and isinstance(node.get("type"), str):
        closed["type"] = [node["type"], "null"]
    return closed
