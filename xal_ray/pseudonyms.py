"""Pseudonyms: what identifies a patient, as a keyed hash that nobody can undo or guess without the key.

The key lies outside every pool and run, and nothing that xal-ray writes holds it, except the key file itself.
Who loses it can't tell that two pools show the same patients; who has it can find a patient of known id.
"""

from __future__ import annotations

import hmac
import os
import re
import secrets
import stat
import unicodedata
from contextlib import suppress
from pathlib import Path

from xal_ray.errors import ConfigError

KEY_VARIABLE = "XAL_RAY_PSEUDONYM_KEY"
KEY_FILE_VARIABLE = "XAL_RAY_PSEUDONYM_KEY_FILE"

_NEW_KEY_BYTES = 32
_KEY_TEXT = re.compile(r"(?:[0-9a-fA-F]{2}){16,512}")  # hexadecimal
_KEY_WORDS = "hexadecimal digits, an even number of them and at least 32"
_MAX_FILE_BYTES = 2048
_PADDING = " \t\r\n\0"  # DICOM pads values with blanks and zeros to an even length
_MAKE_ONE = "python -c 'import secrets; print(secrets.token_hex(32))'"


class Pseudonyms:
    """Makes pseudonyms with one key. It can be sent to other processes, and shows the key to nobody.

    Args:
        key: At least 16 bytes.

    Attributes:
        key_id: Which key it is: 12 hexadecimal digits that say nothing else of it, so they may be shown.
    """

    def __init__(self, key: bytes) -> None:
        if len(key) < 16:
            raise ValueError("a key has at least 16 bytes")
        self._key = key
        self.key_id = self._digest("key", "")[:12]

    def of(self, kind: str, value: str) -> str:
        """The pseudonym of an id: `p-` and the first 64 bits of HMAC-SHA256(key, kind, value), hexadecimal.

        Values that differ in padding or in the form of their Unicode alone have one pseudonym. Among
        10 million patients two share one by chance with a probability of 3e-6.

        Args:
            kind: What the value is (patient, study, site); as another kind a text has another pseudonym.
            value: The id. All blank ones are one.
        """
        text = unicodedata.normalize("NFC", value).strip(_PADDING)
        return f"p-{self._digest('of', kind, text)[:16]}"

    def _digest(self, *parts: str) -> str:
        # Lengths are written too: no two lists of parts give one message.
        message = "".join(f"{len(part)}:{part}" for part in ("xal-ray", *parts))
        return hmac.digest(self._key, message.encode("utf-8", "surrogatepass"), "sha256").hex()

    def __repr__(self) -> str:
        return "Pseudonyms(...)"


def load_pseudonyms() -> Pseudonyms:
    """Get the key: from XAL_RAY_PSEUDONYM_KEY, else from a file that only its owner can read.

    The file is XAL_RAY_PSEUDONYM_KEY_FILE, else `xal-ray/pseudonym.key` below $XDG_CONFIG_HOME or ~/.config,
    which is made at its first use; of several processes that do so at once, all get the same key.

    Raises:
        ConfigError: The key is too short or malformed; its file is missing or can't be made; or others can
            read it.
    """
    text = os.environ.get(KEY_VARIABLE)
    if text is not None:
        return Pseudonyms(_parse(text, where=KEY_VARIABLE))
    named = os.environ.get(KEY_FILE_VARIABLE)
    if named is not None:
        path = Path(named)
        if not path.is_file():
            raise ConfigError(
                "there is no key file for pseudonyms",
                where=f"{path} ({KEY_FILE_VARIABLE})",
                next_step=f"restore it from where keys are kept; a new one: (umask 077; {_MAKE_ONE} > FILE)",
            )
        return Pseudonyms(_read(path))
    path = _usual_place()
    if not path.exists():
        _make(path)
    return Pseudonyms(_read(path))


def _usual_place() -> Path:
    configured = Path(os.environ.get("XDG_CONFIG_HOME", ""))
    try:
        # A relative one is to be ignored, says the XDG Base Directory Specification.
        folder = configured if configured.is_absolute() else Path.home() / ".config"
    except RuntimeError as error:
        raise ConfigError(
            "there is no home folder to keep the key for pseudonyms in",
            next_step=f"set {KEY_FILE_VARIABLE} to a file, or {KEY_VARIABLE} to {_KEY_WORDS}",
        ) from error
    return folder / "xal-ray" / "pseudonym.key"


def _make(path: Path) -> None:
    """Write a new key, whole or not at all; a key that another process has written meanwhile stays."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w") as stream:
                stream.write(secrets.token_hex(_NEW_KEY_BYTES) + "\n")
                stream.flush()
                os.fsync(stream.fileno())
            with suppress(FileExistsError):
                path.hardlink_to(temporary)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise ConfigError(
            "a key for pseudonyms can't be kept",
            found=error.strerror,
            where=str(path),
            next_step=f"set {KEY_FILE_VARIABLE} to a file elsewhere, or {KEY_VARIABLE} to {_KEY_WORDS}",
        ) from error


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            status = os.fstat(stream.fileno())
            text = stream.read(_MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError(
            "the key file for pseudonyms can't be read",
            found=error.strerror,
            where=str(path),
            next_step="it belongs to whoever runs xal-ray: check its owner and chmod 600",
        ) from error
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o077:
        raise ConfigError(
            "others can read the key for pseudonyms",
            expected="a file for its owner alone (0600 or 0400)",
            found=f"{mode:04o}",
            where=str(path),
            next_step=f"chmod 600 {path}; if somebody may have read it, make a new key and prepare again",
        )
    return _parse(text.decode("ascii", "replace"), where=str(path))


def _parse(text: str, where: str) -> bytes:
    digits = text.strip()
    if not _KEY_TEXT.fullmatch(digits):
        raise ConfigError(
            "the key for pseudonyms is malformed or too short",
            expected=_KEY_WORDS,
            found=f"{len(digits)} characters" if digits else "nothing",
            where=where,
            next_step=f"restore it from where keys are kept; {_MAKE_ONE} makes a new one",
        )
    return bytes.fromhex(digits)
