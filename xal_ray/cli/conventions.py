"""Exit codes and environment variables, which are the same for all commands."""

from __future__ import annotations

from collections.abc import Mapping

from xal_ray.cli.process import BROKEN_PIPE, SIGNALS
from xal_ray.errors import InputError, XalRayError

EXIT_CODES: Mapping[int, str] = {
    0: "The command did what it was asked, or stopped at AWAITING_LABELS for people to label.",
    XalRayError.exit_code: (
        "A stage failed or stood still, no trial of a sweep finished, `doctor` found something missing "
        "without which nothing runs, or something unexpected happened."
    ),
    InputError.exit_code: (
        "Something that the user gave is wrong: the command line, the configuration, a source, a pool, a "
        "run, labels, a model or the disk."
    ),
    **{
        128 + number: f"{number.name} ended the command; the same command goes on from there."
        for number in sorted(SIGNALS)
    },
    BROKEN_PIPE: "Whoever read the output (`| head`) has gone.",
}

# Names with a star stand for all that begin so. `tests/unit/test_reference.py` finds what is missing.
ENVIRONMENT: Mapping[str, str] = {
    "XAL_RAY_PSEUDONYM_KEY": "This is the key for pseudonyms of patients: hexadecimal digits, 32 or more.",
    "XAL_RAY_PSEUDONYM_KEY_FILE": "That key lies in this file, which only its owner may read.",
    "XDG_CONFIG_HOME": (
        "Where neither is set, that key lies in `xal-ray/pseudonym.key` below this folder; the default is "
        "`~/.config`."
    ),
    "TMPDIR": "Temporary files go to this folder; one that can't be used is passed over, and that is said.",
    "RAY_TMPDIR": "Sockets and logs of a Ray of one's own go to this folder, before `TMPDIR` is tried.",
    "HOME": "Where this is no folder, a temporary one takes its place.",
    "LOGNAME": "This is the user's name; where the machine knows none, it is made of the user's number.",
    "USER": "This is the user's name where `LOGNAME` is not set.",
    "MPLCONFIGDIR": "Files of matplotlib go here; where `HOME` is read-only, the default is temporary.",
    "RAY_AUTH_TOKEN": "This is the token of clusters, if it is not in a file.",
    "RAY_AUTH_TOKEN_PATH": "The token of clusters lies in this file; the default is `~/.ray/auth_token`.",
    "RAY_ADDRESS": "It is ignored with `--cluster` and `--address`, which say which cluster is meant.",
    "RAY_API_SERVER_ADDRESS": "It is ignored with `--cluster` and `--address`, too.",
    "RAY_BACKEND_LOG_LEVEL": "Ray's processes log from this level on; without `--verbose` it is `fatal`.",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": (
        "Ray Train waits this many seconds for its workers before it counts anew how many there is room "
        "for; the default is 30."
    ),
    "RAY_*": "Ray reads many more, and what the user has set of them stays as it is.",
    "TUNE_*": "Ray Tune reads these, and what the user has set of them stays as it is.",
    "AWS_*": "`s3://` and clusters on AWS have their credentials, region and endpoint from these.",
    "GOOGLE_*": "`gs://` has its credentials from these.",
    "MLFLOW_*": "MLflow (`sweep.mlflow`) reads its own.",
}
