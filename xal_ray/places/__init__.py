"""Places: local paths and object stores, named in one way."""

from xal_ray.places.paths import (
    REMOTE_SCHEMES,
    Place,
    RangeReader,
    RemotePath,
    file_system,
    is_remote,
    place,
)
from xal_ray.places.refusals import code_of, remote_errors

__all__ = [
    "REMOTE_SCHEMES",
    "Place",
    "RangeReader",
    "RemotePath",
    "code_of",
    "file_system",
    "is_remote",
    "place",
    "remote_errors",
]
