"""A cluster file is read, checked, and closed."""

import copy
from pathlib import Path

import pytest
import yaml

from xal_ray.cluster.files.definition import hardened, read_definition, require_filled
from xal_ray.cluster.token import ensure_token
from xal_ray.errors import ConfigError, StorageError

ROOT = Path(__file__).resolve().parents[2]
NODE = "available_node_types/head/node_config"
SHIPPED = ("aws", "gcp", "onprem", "kuberay")


@pytest.fixture(autouse=True)
def _own_home(tmp_path, monkeypatch):
    """No test sees the token of whoever runs it; sources are found as from a checkout."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(ROOT)


def local_tree():
    return {
        "cluster_name": "c",
        "provider": {"type": "local", "head_ip": "10.0.0.1", "worker_ips": ["10.0.0.2"]},
        "auth": {"ssh_user": "me"},
    }


def aws_tree():
    machine = {
        "InstanceType": "m7i.large",
        "SecurityGroupIds": ["sg-1"],
        "IamInstanceProfile": {"Name": "r"},
        "MetadataOptions": {"HttpTokens": "required"},
        "BlockDeviceMappings": [{"DeviceName": "/dev/xvda", "Ebs": {"Encrypted": True}}],
    }
    return {
        "cluster_name": "c",
        "max_workers": 4,
        "idle_timeout_minutes": 5,
        "provider": {"type": "aws", "region": "us-east-1"},
        "auth": {"ssh_user": "me"},
        "available_node_types": {
            "head": {"max_workers": 0, "resources": {"CPU": 0}, "node_config": copy.deepcopy(machine)},
            "work": {"max_workers": 4, "resources": {"CPU": 4, "GPU": 1}, "node_config": dict(machine)},
        },
        "head_node_type": "head",
    }


def changed(tree, key, value):
    """The tree with `a.b.c` set; with `...` it is taken away."""
    *parents, leaf = key.split("/")
    node = tree
    for parent in parents:
        node = node[parent]
    if value is ...:
        del node[leaf]
    else:
        node[leaf] = value
    return tree


def read(tree, folder):
    path = folder / "cluster.yaml"
    path.write_text(tree if isinstance(tree, str) else yaml.safe_dump(tree), encoding="utf-8")
    return read_definition(path)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_file_passes_and_wants_to_be_filled_in(name):
    definition = read_definition(ROOT / "cluster" / f"{name}.yaml")
    assert definition.kind == ("rayjob" if name == "kuberay" else "launcher")
    assert definition.name == "xal-ray"
    assert definition.unfilled
    # a user's key is not on every machine
    assert [text for text in definition.warnings if "ssh_private_key" not in text] == []
    with pytest.raises(ConfigError, match="placeholders") as caught:
        require_filled(definition)
    assert definition.unfilled[0] in str(caught.value)


def test_a_file_that_is_filled_in_may_be_used(tmp_path):
    require_filled(read(aws_tree(), tmp_path))


@pytest.mark.parametrize(
    ("make", "key", "value", "message"),
    [
        (aws_tree, "provider/regoin", "x", "did you mean 'provider.region'"),
        (aws_tree, "provider/use_internal_ip", True, "did you mean 'provider.use_internal_ips'"),
        (local_tree, "provider/worker_ip", [], "did you mean 'provider.worker_ips'"),
        (local_tree, "provider/region", "x", "unknown key 'provider.region'"),
        (aws_tree, "provider/type", "azure", "one of aws, gcp, local"),
        (aws_tree, "provider/type", ..., "type is missing"),
        (aws_tree, "provider/region", ..., "'provider.region' is missing"),
        (aws_tree, "provider/use_internal_ips", "yes", "true or false"),
        (aws_tree, "max_worker", 3, "did you mean 'max_workers'"),
        (aws_tree, "max_workers", "4", "a whole number"),
        (aws_tree, "max_workers", ..., "'max_workers' is missing"),
        (aws_tree, "cluster_name", ..., "'cluster_name' is missing"),
        (aws_tree, "cluster_name", " ", "no name"),
        (aws_tree, "head_node_type", "haed", "one of head, work"),
        (aws_tree, "head_node_type", ..., "'head_node_type' is missing"),
        (aws_tree, "available_node_types", ..., "'available_node_types' is missing"),
        (aws_tree, "available_node_types/work/max_workers", ..., "work.max_workers' is missing"),
        (aws_tree, "available_node_types/work/max_workers", 5, "to the cluster's max_workers (4)"),
        (aws_tree, "available_node_types/work/min_workers", 5, "from min_workers (5)"),
        (aws_tree, "available_node_types/work/min_worker", 1, "did you mean 'available_node_types.work"),
        (aws_tree, "available_node_types/work/resources", {"CPU": "4"}, "work.resources.CPU' does not fit"),
        (aws_tree, "auth", ..., "'auth.ssh_user' is missing"),
        (aws_tree, "auth/ssh_usr", "x", "did you mean 'auth.ssh_user'"),
        (aws_tree, "auth/ssh_private_key", str(ROOT / "LICENSE"), "node_config.KeyName' is missing"),
        (
            aws_tree,
            NODE + "/InstanceTyp",
            "x",
            "did you mean 'available_node_types.head.node_config.InstanceType'",
        ),
        (aws_tree, NODE + "/SubnetIDs", [], "node_config.SubnetIds'"),
        (aws_tree, NODE + "/MetadataOptions/HttpToken", "required", "MetadataOptions.HttpTokens'"),
        (aws_tree, NODE + "/BlockDeviceMappings", [{"Ebs": {"Encypted": True}}], "[0].Ebs.Encrypted'"),
        (aws_tree, NODE + "/InstanceType", 5, "does not fit EC2"),
        (aws_tree, "file_mounts", {"~/x": "nowhere.txt"}, "the source of 'file_mounts.~/x' does not exist"),
        (local_tree, "provider/head_ip", ..., "'provider.head_ip' is missing"),
        (local_tree, "provider/worker_ips", "10.0.0.2", "a list"),
        (local_tree, "provider/worker_ips", [10], "a list of addresses"),
        (local_tree, "provider/worker_ips", ..., "'provider.worker_ips' is missing"),
        (local_tree, "provider/worker_ips", ["10.0.0.2", "10.0.0.2"], "stands twice"),
        (local_tree, "provider/worker_ips", ["h2", "H2"], "stands twice"),
        (local_tree, "provider/worker_ips", ["10.0.0.1"], "the head is also a worker"),
        (local_tree, "head_node_type", "head", "no meaning for hosts"),
    ],
)
def test_what_is_wrong_is_told_with_its_key(tmp_path, make, key, value, message):
    with pytest.raises(ConfigError) as caught:
        read(changed(make(), key, value), tmp_path)
    assert message in str(caught.value)
    assert "cluster.yaml" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1\nb: 2", "line 2"),
        ("a: 1\na: 2", "the key 'a' stands twice"),
        ("- 1", "not a mapping"),
        ("kind: RayCluster", "apiVersion"),
        ("apiVersion: ray.io/v1\nkind: RayCluster", "'kind' does not fit"),
    ],
)
def test_yaml_that_can_not_be_used_is_told_with_its_place(tmp_path, text, message):
    with pytest.raises(ConfigError) as caught:
        read(text, tmp_path)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("apiVersion", "ray.io/v1alpha1", "'apiVersion' does not fit"),
        ("metadata/name", "My_Run", "'metadata.name' does not fit"),
        ("spec/rayClusterSpec", ..., "'spec.rayClusterSpec' is missing"),
        ("spec/rayClusterSpec/rayVersion", ..., "rayVersion' is missing"),
        ("spec/rayClusterSpec/rayVersion", "2.9.0", "2.52 or newer"),
        ("spec/rayClusterSpec/headGroupSpec", ..., "headGroupSpec.template.spec.containers' is missing"),
        ("spec/rayClusterSpec/workerGroupSpecs", "gpu", "workerGroupSpecs' does not fit"),
        ("spec/rayClusterSpec/workerGroupSpecs", [{"groupName": "gpu"}], "[0].template.spec.containers'"),
        ("spec/rayClusterSpec/authOptions/mode", "disabled", "token authentication"),
    ],
)
def test_what_is_wrong_with_a_rayjob_is_told_with_its_key(tmp_path, key, value, message):
    tree = yaml.safe_load((ROOT / "cluster" / "kuberay.yaml").read_text())
    with pytest.raises(ConfigError) as caught:
        read(changed(tree, key, value), tmp_path)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("maxReplicas", ..., "[1].maxReplicas' is missing"),
        ("minReplicas", 9, "a number from minReplicas on"),
        ("groupName", "gpu", "a groupName of its own each"),
    ],
)
def test_what_is_wrong_with_a_worker_group_is_told(tmp_path, key, value, message):
    tree = yaml.safe_load((ROOT / "cluster" / "kuberay.yaml").read_text())
    changed(tree["spec"]["rayClusterSpec"]["workerGroupSpecs"][1], key, value)
    with pytest.raises(ConfigError) as caught:
        read(tree, tmp_path)
    assert message in str(caught.value)


def test_a_file_that_is_not_there_is_told(tmp_path):
    with pytest.raises(ConfigError, match="can't be read"):
        read_definition(tmp_path / "none.yaml")


def test_what_is_short_is_a_warning(tmp_path):
    tree = changed(aws_tree(), "idle_timeout_minutes", ...)
    assert "idle_timeout_minutes is not set" in read(tree, tmp_path).warnings[0]


def test_sources_are_found_beside_the_file_first(tmp_path):
    (tmp_path / "constraints.txt").write_text("mine")
    tree = {**local_tree(), "file_mounts": {"~/c.txt": "constraints.txt", "~/l": "LICENSE"}}
    mounts = read(tree, tmp_path).tree["file_mounts"]
    assert mounts["~/c.txt"] == str(tmp_path / "constraints.txt")
    assert mounts["~/l"] == str(ROOT / "LICENSE")


def test_the_token_is_added_and_the_users_commands_stay(tmp_path):
    tree = local_tree()
    tree["head_start_ray_commands"] = ["ray stop", "echo hello", "ray start --head --port=1"]
    closed = read(tree, tmp_path).tree
    assert closed["head_start_ray_commands"] == [
        "chmod 700 ~/.ray && chmod 600 ~/.ray/auth_token",
        "ray stop",
        "echo hello",
        "export RAY_AUTH_MODE=token; ray start --head --port=1",
    ]
    worker = closed["worker_start_ray_commands"]
    assert worker[-1].startswith("export RAY_AUTH_MODE=token; ")
    assert worker[-1].endswith("ray start --address=$RAY_HEAD_IP:6379")
    assert closed["file_mounts"] == {"~/.ray/auth_token": str(Path.home() / ".ray" / "auth_token")}


def test_commands_that_a_file_leaves_out_keep_the_dashboard_on_loopback(tmp_path):
    # Ray's own defaults open it to the network.
    head = read(aws_tree(), tmp_path).tree["head_start_ray_commands"]
    assert "--dashboard-host=127.0.0.1" in head[-1]


@pytest.mark.parametrize("name", SHIPPED[:3])
def test_closing_twice_changes_nothing(name):
    tree = read_definition(ROOT / "cluster" / f"{name}.yaml").tree
    assert hardened(copy.deepcopy(tree)) == tree
    commands = " ".join([*tree["head_start_ray_commands"], *tree["worker_start_ray_commands"]])
    assert commands.count("RAY_AUTH_MODE=token") == 2


def test_a_token_of_the_users_own_place_stays():
    tree = {**local_tree(), "file_mounts": {"/home/me/.ray/auth_token": "/somewhere/else"}}
    assert hardened(tree)["file_mounts"] == {"/home/me/.ray/auth_token": "/somewhere/else"}


def test_the_token_is_made_once_for_its_owner_alone():
    token = ensure_token()
    path = Path.home() / ".ray" / "auth_token"
    assert (len(token), path.read_text()) == (64, token)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o077 == 0
    assert ensure_token() == token


def test_a_token_that_others_can_read_is_closed_and_kept():
    token = ensure_token()
    path = Path.home() / ".ray" / "auth_token"
    path.chmod(0o644)
    assert ensure_token() == token
    assert path.stat().st_mode & 0o777 == 0o600


def test_another_token_in_the_environment_is_refused_without_showing_either(monkeypatch):
    token = ensure_token()
    monkeypatch.setenv("RAY_AUTH_TOKEN", "another-one")
    with pytest.raises(ConfigError, match="another token") as caught:
        ensure_token()
    assert token not in str(caught.value)
    assert "another-one" not in str(caught.value)


def test_a_token_that_can_not_be_made_is_told(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "file" / "token"))
    with pytest.raises(StorageError, match="can't be made"):
        ensure_token()


def test_an_empty_token_is_refused(tmp_path, monkeypatch):
    (tmp_path / "token").write_text("\n")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    with pytest.raises(ConfigError, match="empty"):
        ensure_token()
