"""AWS as moto has it, in a process of its own at an address that the hosts reach."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from laptop import wait_for

REGION = "us-east-1"
PORT = 5078


class FakeAws:
    """A running moto.

    Args:
        host: The address at which it listens.
    """

    def __init__(self, host: str) -> None:
        self.endpoint = f"http://{host}:{PORT}"
        self.environment = {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_DEFAULT_REGION": REGION,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def client(self, service: str) -> Any:
        """A client of boto3 that can't reach any other AWS."""
        import boto3

        return boto3.client(
            service,
            endpoint_url=self.endpoint,
            region_name=REGION,
            aws_access_key_id="testing",
            aws_secret_access_key="testing",
        )

    def keys(self, bucket: str, prefix: str) -> list[str]:
        """The objects below a prefix."""
        pages = self.client("s3").get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        return [one["Key"] for page in pages for one in page.get("Contents", ())]

    def download(self, bucket: str, prefix: str, target: Path) -> None:
        """Copy all objects below a prefix into a folder, with their names below it."""
        for key in self.keys(bucket, prefix):
            path = target / key.removeprefix(prefix).lstrip("/")
            path.parent.mkdir(parents=True, exist_ok=True)
            self.client("s3").download_file(bucket, key, str(path))

    def admit(self, home: Path) -> None:
        """Let a host in: its environment stands for the role that an instance has."""
        with (home / ".bashrc").open("a") as lines:
            lines.writelines(f"export {key}={value}\n" for key, value in self.environment.items())


@contextmanager
def fake_aws(host: str, before: Sequence[str] = ()) -> Iterator[FakeAws]:
    """AWS, while the context lasts.

    Args:
        host: The address at which it listens.
        before: Words before the command that starts it.
    """
    aws = FakeAws(host)
    server = subprocess.Popen(
        [*before, sys.executable, "-m", "moto.server", "-H", host, "-p", str(PORT)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"MOTO_IAM_LOAD_MANAGED_POLICIES": "true"},
    )
    try:
        wait_for("moto", lambda: server.poll() is not None or _answers(aws.endpoint))
        assert server.poll() is None
        yield aws
    finally:
        server.kill()
        server.wait()


def _answers(endpoint: str) -> bool:
    import requests

    try:
        return requests.get(f"{endpoint}/moto-api/data.json", timeout=5).ok
    except requests.RequestException:
        return False
