"""Says what an object store refuses, told as the disk's refusals are."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from xal_ray.errors import StorageError, XalRayError

# What code asks for and handles: there is nothing here, or there is already.
_ANSWERS = (FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError)
_LIBRARIES = (
    "botocore",
    "aiobotocore",
    "aiohttp",
    "s3fs",
    "gcsfs",
    "google",
    "fsspec",
    "requests",
    "urllib3",
)


@dataclass(frozen=True)
class _Kind:
    what: str
    next_step: str


_FULL = _Kind(
    "the object store is full, or its quota is used up",
    "free some space or raise the quota, then run the same command again: it goes on where it stopped",
)
_THROTTLED = _Kind(
    "the object store asks for fewer requests, and still did after many tries",
    "run the same command again later, or with fewer actors: it goes on where it stopped",
)
_REFUSED = _Kind(
    "the object store does not allow it",
    "check the bucket's policy and the role or credentials in the environment; reading, writing, listing and "
    "deleting must be allowed",
)
_NO_CREDENTIALS = _Kind(
    "there are no credentials for the object store",
    "give the instance a role, or the environment the variables or profile that the cloud's own tools use",
)
_UNREACHABLE = _Kind(
    "the object store can't be reached",
    "check the network and the endpoint, then run the same command again: it goes on where it stopped",
)
_NO_BUCKET = _Kind("there is no such bucket", "make it with the cloud's own tools, or correct the address")
_OTHER = _Kind(
    "the object store gave an error",
    "run the same command again: it goes on where it stopped",
)

_KIND_OF_CODE = {
    **dict.fromkeys(("507", "XMinioStorageFull", "InsufficientStorage", "InsufficientCapacity"), _FULL),
    **dict.fromkeys(("SlowDown", "ServiceUnavailable", "Throttling", "429", "503"), _THROTTLED),
    **dict.fromkeys(("RequestLimitExceeded", "TooManyRequests", "ThrottlingException"), _THROTTLED),
    **dict.fromkeys(("AccessDenied", "401", "403", "InvalidAccessKeyId", "ExpiredToken"), _REFUSED),
    **dict.fromkeys(("SignatureDoesNotMatch", "AllAccessDisabled", "InvalidToken"), _REFUSED),
    "NoSuchBucket": _NO_BUCKET,
}
_KIND_OF_TYPE = {
    **dict.fromkeys(("NoCredentialsError", "PartialCredentialsError", "ProfileNotFound"), _NO_CREDENTIALS),
    **dict.fromkeys(("CredentialRetrievalError", "DefaultCredentialsError", "RefreshError"), _NO_CREDENTIALS),
    **dict.fromkeys(("EndpointConnectionError", "ConnectTimeoutError", "ReadTimeoutError"), _UNREACHABLE),
    **dict.fromkeys(("ConnectionClosedError", "ClientConnectorError", "FSTimeoutError"), _UNREACHABLE),
    **dict.fromkeys(("ClientConnectorDNSError", "ConnectionError", "ConnectionRefusedError"), _UNREACHABLE),
    "TimeoutError": _UNREACHABLE,
}


@contextmanager
def remote_errors(where: str) -> Iterator[None]:
    """Turn what an object store's library raises into a `StorageError`.

    What is an answer (no such file) goes through as it is. Nothing of the library's text is quoted: it may
    hold a signed address, and who raised it is not shown either.

    Args:
        where: The place.
    """
    try:
        yield
    except (XalRayError, *_ANSWERS):
        raise
    except Exception as error:
        if not isinstance(error, OSError) and not type(error).__module__.startswith(_LIBRARIES):
            raise
        raise _explained(error, where) from None


def code_of(error: BaseException) -> str:
    """The store's own code of an error (`SlowDown`, `PreconditionFailed`, `412`), or the error's type."""
    cause: BaseException | None = error
    while cause is not None:
        response = getattr(cause, "response", None)
        if isinstance(response, dict) and response.get("Error", {}).get("Code"):
            return str(response["Error"]["Code"])
        status = getattr(cause, "code", None) or getattr(cause, "status", None)
        if isinstance(status, int):
            return str(status)
        cause = cause.__cause__
    return type(error).__name__


def _explained(error: Exception, where: str) -> StorageError:
    code = code_of(error)
    kind = _KIND_OF_CODE.get(code) or _KIND_OF_TYPE.get(type(error).__name__)
    if kind in (None, _REFUSED) and "quota" in f"{code} {error}".lower():
        kind = _FULL
    if kind is None:
        kind = _kind_of_number(error)
    return StorageError(kind.what, found=code, where=where, next_step=kind.next_step)


def _kind_of_number(error: Exception) -> _Kind:
    number = getattr(error, "errno", None)
    if isinstance(error, PermissionError):
        return _REFUSED
    if number in (errno.ENOSPC, errno.EDQUOT):
        return _FULL
    return _THROTTLED if number == errno.EBUSY else _OTHER
