"""Paths of a source: what lies below its folder may be read, and nothing else."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from xal_ray.errors import SourceError
from xal_ray.places import is_remote, place

_URI_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")


def image_id_of_path(relative: str) -> str:
    """An id for an image that has none: it survives a move of the whole folder and reveals no name or class.

    Args:
        relative: The path below the source's root, with forward slashes.
    """
    return f"img-{hashlib.sha256(relative.encode()).hexdigest()[:16]}"


class SourceRoot:
    """The folder that a source may read from: paths that lead out of it are refused.

    Args:
        folder: The manifest's folder or the image folder; it may itself be a link.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder.resolve()
        self._is_remote = is_remote(folder)
        # Text and os.path below, not Path: manifests may hold a million rows, and where a
        # link loops or a name is too long, Path raises although the file is just missing.
        self._prefix = str(self.path).removesuffix("/") + "/"
        self._resolved_folders: dict[str, str] = {}

    def locate(self, text: str, where: str) -> tuple[str, str]:
        """Return where a path of a manifest leads.

        Args:
            text: A path relative to the folder, or an absolute one into it; in an object store a URI.
            where: File and row, for messages.

        Returns:
            The absolute path or URI, and the path relative to the folder with forward slashes. The file need
            not exist.

        Raises:
            SourceError: The path has a scheme (`https:`), or leads out of the folder by itself or by a link.
        """
        if self._is_remote:
            return self._locate_remote(text, where)
        if _URI_SCHEME.match(text) or "\0" in text or "\\" in text:
            raise SourceError(
                "a path is not a plain local path",
                expected="a path with forward slashes, relative to the manifest's folder",
                where=where,
                next_step="copy the images to a local folder and name them by their paths",
            )
        path = os.path.normpath(text if text.startswith("/") else self._prefix + text)
        if not path.startswith(self._prefix):
            path = self._resolve(path)  # an absolute path may reach the folder through a link
        self.check_link(path, where)
        return path, path.removeprefix(self._prefix)

    def _locate_remote(self, text: str, where: str) -> tuple[str, str]:
        """Do as `locate` does, with keys as they are written: `..` and percent signs mean nothing."""
        is_uri = text.startswith(self._prefix)
        relative = text.removeprefix(self._prefix).removeprefix("" if is_uri else "./")
        if not is_uri and (_URI_SCHEME.match(text) or text.startswith("/")):
            raise self._leads_out(where)
        if any(part in ("", ".", "..") for part in relative.split("/")) or "\0" in text or "\\" in text:
            raise SourceError(
                "a path is not a plain one",
                expected="a path with forward slashes below the manifest's folder, without '..' or '//'",
                where=where,
                next_step="name each image as its object is named",
            )
        return self._prefix + relative, relative

    def check_link(self, path: str, where: str | None = None) -> None:
        """Check that an absolute path lies in the folder when links are followed.

        Raises:
            SourceError: It does not.
        """
        if not self._resolve(path).startswith(self._prefix):
            raise self._leads_out(where or path)

    def _leads_out(self, where: str) -> SourceError:
        return SourceError(
            "a path leads out of the source's folder",
            expected=f"a path below {self.path}, also when links are followed",
            where=where,
            next_step="put the manifest into a folder above all images, or copy the images below it",
        )

    def _resolve(self, path: str) -> str:
        """The path without links, asking the disk once a folder: manifests hold many rows of one folder."""
        if os.path.islink(path):  # noqa: PTH114
            return os.path.realpath(path)
        folder, _, name = path.rpartition("/")
        if folder not in self._resolved_folders:
            self._resolved_folders[folder] = os.path.realpath(folder or "/")
        return f"{self._resolved_folders[folder]}/{name}"


def check_some_exist(paths: Sequence[str], where: str) -> None:
    """Refuse a source of which nothing is where it says; single missing files are the decoder's business.

    Args:
        paths: The first few absolute paths.
        where: The source, for messages.

    Raises:
        SourceError: None of them exists.
    """
    if not any(place(path).exists() if "://" in path else os.path.exists(path) for path in paths):  # noqa: PTH110
        folders = Counter(path.rpartition("/")[0] for path in paths)
        raise SourceError(
            f"none of the first {len(paths)} images exists",
            expected="paths relative to the manifest's folder",
            found=f"no such files in {folders.most_common(1)[0][0]}",
            where=where,
            next_step="check the image column, or move the manifest beside the images",
        )
