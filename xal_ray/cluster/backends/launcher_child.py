"""A process of its own around Ray's launcher: `python -m xal_ray.cluster.backends.launcher_child FILE AUTH`.

Ray's launcher prints, asks, and ends the process where it fails; so it gets one, whose output goes to a log.
AUTH is written: the section `auth` as the launcher resolved it (on AWS it makes a key where none is named).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from xal_ray.cluster.job_record import write_private


def main(file: str, auth: str) -> None:
    """Bring a cluster up. A Ray that runs on its head is stopped, and its jobs with it."""
    from ray.autoscaler.sdk import create_or_update_cluster

    resolved = create_or_update_cluster(file, no_config_cache=True)
    write_private(Path(auth), json.dumps(resolved["auth"]))


if __name__ == "__main__":
    main(*sys.argv[1:])
