"""What opens Ray to others, and secrets in a file, are refused; the rest is told."""

from pathlib import Path

import pytest
import yaml

from xal_ray.cluster.files import exposure
from xal_ray.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
FILLED = {"InstanceType": "x", "SecurityGroupIds": ["sg-1"], "IamInstanceProfile": {"Name": "r"}}
FILLED |= {"MetadataOptions": {"HttpTokens": "required"}}
FILLED |= {"BlockDeviceMappings": [{"Ebs": {"Encrypted": True}}]}


def local(**more):
    return {"provider": {"type": "local"}, **more}


def aws(provider=None, **node_config):
    config = {key: value for key, value in {**FILLED, **node_config}.items() if value is not ...}
    return {
        "provider": {"type": "aws", **(provider or {})},
        "available_node_types": {"head": {"node_config": config}},
    }


def rule(source, low, high, protocol="tcp"):
    key = "Ipv6Ranges" if ":" in source else "IpRanges"
    name = "CidrIpv6" if ":" in source else "CidrIp"
    ports = {"FromPort": low, "ToPort": high, "IpProtocol": protocol, key: [{name: source}]}
    return {"security_group": {"IpPermissions": [ports]}}


def rayjob(**head):
    return {
        "spec": {
            "rayClusterSpec": {
                "authOptions": {"mode": "token"},
                "headGroupSpec": {"template": {"spec": {"containers": [{"name": "h"}]}}, **head},
            }
        }
    }


@pytest.mark.parametrize(
    "tree",
    [
        local(head_start_ray_commands=["ray start --head --dashboard-host=0.0.0.0"]),
        local(head_start_ray_commands=["ray start --head --dashboard-host 10.0.0.4"]),
        local(head_start_ray_commands=["ray start --head --dashboard-host '::'"]),
        local(head_start_ray_commands=["ray start --head --dashboard-host=$(hostname -I)"]),
        local(setup_commands=["ray start --head --dashboard-host=0.0.0.0"]),
        local(head_start_ray_commands=["export RAY_AUTH_MODE=disabled; ray start --head"]),
        local(head_start_ray_commands=["RAY_AUTH_MODE=$MODE ray start --head"]),
        local(docker={"run_options": ["-e RAY_AUTH_MODE=disabled"]}),
        local(docker={"run_options": ["-p 8265:8265"]}),
        local(docker={"head_run_options": ["--publish=0.0.0.0:10001:10001"]}),
        local(docker={"run_options": ["-P"]}),
        aws(rule("0.0.0.0/0", 8265, 8265)),
        aws(rule("0.0.0.0/0", 0, 65535)),
        aws(rule("0.0.0.0/0", 22, 6379)),
        aws(rule("0.0.0.0/0", -1, -1, "-1")),
        aws(rule("::/0", 10001, 10001)),
        aws(rule("0.0.0.0/1", 8265, 8265)),
    ],
)
def test_a_launcher_file_that_opens_ray_is_refused_with_the_reason(tree):
    with pytest.raises(ConfigError) as caught:
        exposure.check_launcher(tree, "f.yaml")
    assert "CVE-2023-48022" in str(caught.value)
    assert "f.yaml: " in str(caught.value)


@pytest.mark.parametrize(
    "tree",
    [
        local(head_start_ray_commands=["ray start --head --dashboard-host=127.0.0.1"]),
        local(head_start_ray_commands=["export RAY_AUTH_MODE=token; ray start --head"]),
        local(docker={"run_options": ["-p 127.0.0.1:8265:8265", "--net=host", "--pid=host"]}),
        aws(rule("203.0.113.7/32", 8265, 8265)),
        aws(rule("10.0.0.0/8", 0, 65535)),
    ],
)
def test_what_stays_inside_is_allowed(tree):
    assert exposure.check_launcher(tree, "f.yaml") == []


@pytest.mark.parametrize(
    ("tree", "warning"),
    [
        (aws(rule("0.0.0.0/0", 22, 22)), "opens SSH (port 22) to 0.0.0.0/0"),
        (aws(SecurityGroupIds=...), "Ray makes a group that opens SSH"),
        (aws(IamInstanceProfile=...), "no IamInstanceProfile"),
        (aws(MetadataOptions=...), "IMDSv1"),
        (aws(BlockDeviceMappings=...), "Encrypted is not set"),
        (aws(BlockDeviceMappings=[{"Ebs": {"VolumeSize": 9}}]), "Encrypted is not set"),
    ],
)
def test_what_is_open_and_allowed_is_told(tree, warning):
    (told,) = exposure.check_launcher(tree, "f.yaml")
    assert warning in told


def test_disks_that_are_not_encrypted_are_refused():
    with pytest.raises(ConfigError, match="not encrypted"):
        exposure.check_launcher(aws(BlockDeviceMappings=[{"Ebs": {"Encrypted": False}}]), "f.yaml")


@pytest.mark.parametrize(
    ("node_config", "warning"),
    [
        ({}, "public address"),
        ({"networkInterfaces": [{"accessConfigs": [{"type": "ONE_TO_ONE_NAT"}]}]}, "public address"),
        ({"networkInterfaces": [{}], "tags": {"items": ["web"]}}, "firewall rule"),
    ],
)
def test_public_machines_of_google_are_told(node_config, warning):
    tree = {"provider": {"type": "gcp"}, "available_node_types": {"head": {"node_config": node_config}}}
    (told,) = exposure.check_launcher(tree, "f.yaml")
    assert warning in told


SECRETS = [
    {"provider": {"aws_credentials": {"aws_access_key_id": "x"}}},
    {"provider": {"gcp_credentials": {"type": "service_account", "credentials": "x"}}},
    {"setup_commands": ["echo AKIA" + "A" * 16]},
    {"setup_commands": ["export AWS_SECRET_ACCESS_KEY=canary-1"]},
    {"setup_commands": ["export HF_TOKEN='canary-2'"]},
    {"setup_commands": ["curl https://me:canary-3@host/x"]},
    {"setup_commands": ["curl 'https://b.s3.amazonaws.com/x?X-Amz-Signature=canary-4'"]},
    {"setup_commands": ["git clone https://ghp_canary567890123456789@github.com/x"]},
    {"docker": {"run_options": ["-e RAY_AUTH_TOKEN=canary-5"]}},
    {"auth": {"ssh_private_key": "-----BEGIN OPENSSH PRIVATE KEY-----\ncanary-6"}},
    {"provider": {"password": "canary-7"}},
]


@pytest.mark.parametrize("tree", SECRETS)
def test_a_secret_is_refused_and_never_shown(tree):
    with pytest.raises(ConfigError) as caught:
        exposure.refuse_secrets(tree, "f.yaml")
    message = str(caught.value)
    assert "canary" not in message
    assert "AKIA" not in message
    assert "f.yaml: " in message


@pytest.mark.parametrize(
    "tree",
    [
        {"setup_commands": ["export HF_TOKEN=$HF_TOKEN", "export RAY_AUTH_MODE=token"]},
        {"auth": {"ssh_private_key": "~/.ssh/id_ed25519"}},
        {"file_mounts": {"~/.ray/auth_token": "secrets/token"}},
        {"node_config": {"MetadataOptions": {"HttpTokens": "required"}}},
        {"spec": {"authOptions": {"mode": "token", "secretName": "ray-token"}}},
    ],
)
def test_references_to_secrets_are_allowed(tree):
    exposure.refuse_secrets(tree, "f.yaml")


@pytest.mark.parametrize(
    "head",
    [
        {"serviceType": "LoadBalancer"},
        {"serviceType": "NodePort"},
        {"headService": {"spec": {"type": "LoadBalancer"}}},
        {"headService": {"spec": {"externalIPs": ["203.0.113.7"]}}},
        {"enableIngress": True},
        {"template": {"spec": {"hostNetwork": True, "containers": []}}},
        {"template": {"spec": {"containers": [{"ports": [{"containerPort": 8265, "hostPort": 8265}]}]}}},
        {"template": {"spec": {"containers": [{"env": [{"name": "RAY_AUTH_MODE", "value": "disabled"}]}]}}},
    ],
)
def test_a_rayjob_that_is_open_is_refused(head):
    with pytest.raises(ConfigError, match="CVE-2023-48022"):
        exposure.check_rayjob(rayjob(**head), "f.yaml")


@pytest.mark.parametrize("options", [None, {}, {"mode": "disabled"}])
def test_a_rayjob_without_token_authentication_is_refused(options):
    tree = rayjob()
    tree["spec"]["rayClusterSpec"]["authOptions"] = options
    with pytest.raises(ConfigError, match="token authentication"):
        exposure.check_rayjob(tree, "f.yaml")


def test_a_rayjob_that_switches_authentication_off_for_the_job_is_refused():
    tree = rayjob()
    tree["spec"]["runtimeEnvYAML"] = "env_vars:\n  RAY_AUTH_MODE: disabled\n"
    with pytest.raises(ConfigError, match="switches"):
        exposure.check_rayjob(tree, "f.yaml")


def test_a_secret_in_a_containers_environment_is_refused():
    secret = {"name": "AWS_SECRET_ACCESS_KEY", "value": "canary"}
    tree = rayjob(template={"spec": {"containers": [{"env": [secret]}]}})
    with pytest.raises(ConfigError, match="secretKeyRef") as caught:
        exposure.check_rayjob(tree, "f.yaml")
    assert "canary" not in str(caught.value)
    secret.pop("value")
    secret["valueFrom"] = {"secretKeyRef": {"name": "s", "key": "k"}}
    assert exposure.check_rayjob(tree, "f.yaml") == []


@pytest.mark.parametrize("name", ["aws", "gcp", "onprem"])
def test_a_shipped_file_opens_nothing_and_asks_for_no_more_than_it_says(name):
    tree = yaml.safe_load((ROOT / "cluster" / f"{name}.yaml").read_text())
    exposure.refuse_secrets(tree, name)
    assert exposure.check_launcher(tree, name) == []
