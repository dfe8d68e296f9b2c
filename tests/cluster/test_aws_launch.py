"""`xal-ray run --cluster cluster/aws.yaml --down` on moto's AWS, with a host of this machine behind SSH.

moto invents public addresses for its instances. No packet goes there: the commands see no network but that
of the hosts, which leads nowhere else, and SSH goes through a proxy command. The head alone is launched:
workers are started by its autoscaler once work asks for them, and all of them would be the same host here.
"""

from __future__ import annotations

import shlex
import subprocess

import pytest
import yaml
from fake_aws import REGION, fake_aws
from hosts import Hosts, obstacle
from laptop import ROOT, Laptop, add_to_ray_start, cluster_file, wait_for

pytestmark = [
    pytest.mark.slow,
    pytest.mark.cluster,
    pytest.mark.timeout(600),
    pytest.mark.skipif(obstacle() is not None, reason=str(obstacle())),
]

HEAD, LAPTOP = 0, 1


@pytest.fixture
def hosts(tmp_path):
    with Hosts(tmp_path / "hosts", 2, [ROOT]) as hosts:
        yield hosts


@pytest.fixture
def aws(hosts):
    with fake_aws(hosts.address(LAPTOP), hosts.on_network_of(LAPTOP)) as aws:
        yield aws


def account(aws):
    """What docs/clusters.md tells an account's owner to make first."""
    ec2, iam = aws.client("ec2"), aws.client("iam")
    vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.0.1.0/24")["Subnet"]["SubnetId"]
    ec2.modify_subnet_attribute(SubnetId=subnet, MapPublicIpOnLaunch={"Value": True})
    group = ec2.create_security_group(GroupName="xal-ray", Description="closed", VpcId=vpc)["GroupId"]
    ec2.authorize_security_group_ingress(
        GroupId=group,
        IpPermissions=[
            {"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": group}]},
            {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "IpRanges": [{"CidrIp": "198.51.100.7/32"}]},
        ],
    )
    for role in ("xal-ray-head", "xal-ray-worker"):
        iam.create_instance_profile(InstanceProfileName=role)
    image = ec2.describe_images(Owners=["amazon"])["Images"][0]["ImageId"]
    return {"ImageId": image, "SubnetIds": [subnet], "SecurityGroupIds": [group]}


def filled_in(hosts, made):
    """`cluster/aws.yaml` with the account's ids, and a proxy that leads each login to the one host."""
    tree = cluster_file("aws.yaml")
    tree["provider"]["region"] = REGION
    for kind in tree["available_node_types"].values():
        kind["node_config"] |= made
    tree["auth"] |= {
        "ssh_user": "root",
        "ssh_proxy_command": shlex.join(hosts.ssh_command(HEAD, "-W", f"{hosts.address(HEAD)}:22")),
    }
    tree["file_mounts"], tree["setup_commands"] = {}, []  # the host sees this machine's programs
    address = f"--node-ip-address={hosts.address(HEAD)}"
    add_to_ray_start(tree, "head_start_ray_commands", f"{address} --object-store-memory=150000000")
    return tree


def test_a_run_on_s3_launches_what_the_file_says_and_terminates_it(hosts, aws, tmp_path):
    made = account(aws)
    aws.client("s3").create_bucket(Bucket="test")
    aws.admit(hosts.home(HEAD))
    laptop = Laptop(tmp_path / "laptop", filled_in(hosts, made), aws.environment, hosts.on_network_of(LAPTOP))
    assert "ssh_proxy_command" in yaml.safe_load(laptop.cluster_file.read_text())["auth"]
    config = config_of(tmp_path)
    laptop.call("prepare", "phantom", "--config", config, "--out", "s3://test/pool")
    out = ("--cluster", laptop.cluster_file, "--out", "s3://test/runs/on-s3")

    command = laptop.start("run", config, *out)
    try:
        key = wait_for("Ray's key", lambda: list((laptop.folder / ".ssh").glob("*.pem")))[0]
        hosts.authorise(wait_for("a whole key", lambda: public_half(key)))
        laptop.finish(command)
    finally:
        laptop.end(command)
    check_head(aws.client("ec2"), made)
    assert (laptop.folder / "runs" / "on-s3" / "report.html").is_file()
    assert "runs/on-s3/rounds/001/COMMITTED" in aws.keys("test", "runs/on-s3/")

    said = laptop.call("run", config, *out, "--down")  # joins what stands, and finds nothing to do
    assert "joined the cluster xal-ray, which stands" in said
    assert "this run is finished" in said
    assert [one["State"]["Name"] for one in instances(aws.client("ec2"))] == ["terminated"]


def public_half(key):
    done = subprocess.run(["ssh-keygen", "-y", "-f", key], capture_output=True, text=True, check=False)
    return done.stdout if done.returncode == 0 else None


def config_of(folder):
    """A run that asks for no machine but the head."""
    tree = {
        "name": "on-s3",
        "num_rounds": 1,
        "pool": {
            "path": "s3://test/pool",
            "image_size": 64,
            "source": {"kind": "phantom", "phantom": {"num_patients": 30, "images_per_patient": 2}},
        },
        "model": {"backbone": "efficientnet_lite0", "weights": "imagenet"},
        "train": {"max_steps": 4, "eval_every_steps": 2, "minibatch_size": 8},
        "score": {"rows_per_shard": 16, "max_error_fraction": 0.9},
        "select": {"initial_labels": 8, "query_size": 4},
        "ray": {"num_actors": 0},
    }
    path = folder / "on_s3.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def instances(ec2):
    return [one for group in ec2.describe_instances()["Reservations"] for one in group["Instances"]]


def check_head(ec2, made):
    """What moto recorded of the one instance is what the file asks for."""
    (head,) = instances(ec2)
    wished = cluster_file("aws.yaml")["available_node_types"]["head"]["node_config"]
    assert head["State"]["Name"] == "running"
    assert head["InstanceType"] == wished["InstanceType"]
    assert head["SubnetId"] == made["SubnetIds"][0]
    assert [group["GroupId"] for group in head["SecurityGroups"]] == made["SecurityGroupIds"]
    assert head["IamInstanceProfile"]["Arn"].endswith("/xal-ray-head")
    assert head["MetadataOptions"]["HttpTokens"] == "required"
    assert "InstanceLifecycle" not in head  # on demand
    disks = ec2.describe_volumes(
        Filters=[{"Name": "attachment.instance-id", "Values": [head["InstanceId"]]}]
    )["Volumes"]
    assert disks
    assert all(disk["Encrypted"] and disk["VolumeType"] == "gp3" for disk in disks)
    (group,) = ec2.describe_security_groups(GroupIds=made["SecurityGroupIds"])["SecurityGroups"]
    opened = [entry["CidrIp"] for rule in group["IpPermissions"] for entry in rule["IpRanges"]]
    assert opened == ["198.51.100.7/32"]  # Ray opened nothing
    assert len(ec2.describe_security_groups()["SecurityGroups"]) == 3
