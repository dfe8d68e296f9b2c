"""Cheng et al., brain tumours in contrast-enhanced T1 MRI: 3,064 slices of 233 patients, a MATLAB file each.

    1.mat ... 3064.mat                     or, as the zip files nest them:
    brainTumorDataPublic_1-766/1.mat ...   brainTumorDataPublic_767-1532/767.mat ...   and so on
    cvind.mat                              the authors' folds: not used

Class, patient and mask stand in the files: `pool/reading/cheng.py` tells them.
"""

from __future__ import annotations

from xal_ray.config import Pool
from xal_ray.errors import SourceError
from xal_ray.pool.manifest import Row, manifest_of
from xal_ray.pool.sources.common.grouping import check_group_by
from xal_ray.pool.sources.common.listing import Listing
from xal_ray.pool.sources.common.paths import SourceRoot
from xal_ray.pool.sources.common.tree import files_below

LABELS = {1: "meningioma", 2: "glioma", 3: "pituitary"}
CLASSES = tuple(sorted(LABELS.values()))

_WHOLE_SET = 3064


def read(pool: Pool) -> Listing:
    """List the numbered MATLAB files of a folder.

    Args:
        pool: `source.path` is the folder or one above it.

    Returns:
        A row a file. The group is null: the file names its patient.

    Raises:
        SourceError: There is no such file, one number stands twice, or `group_by` is not `group_id`.
    """
    check_group_by(pool, ["group_id"], "each file names its patient, so images must not be dealt one by one")
    assert pool.source.path is not None  # noqa: S101 (resolved_kind has seen to it)
    root = SourceRoot(pool.source.path)
    found = files_below(root, [".mat"])
    numbered = {name: name.rsplit("/", 1)[-1][: -len(".mat")] for name in found}
    numbered = {name: number for name, number in numbered.items() if _is_number(number)}
    if not numbered:
        raise SourceError(
            "the folder holds none of this set's files",
            expected="1.mat, 2.mat, ... (figshare 1512427), in the folder or below",
            found=f"{len(found)} files ending in .mat",
            where=str(root.path),
        )
    rows: list[Row] = [
        {
            "image_id": f"cheng-{int(number):04d}",
            "uri": str(root.path / name),
            "boxes": [],
            "roi_state": "present",
            "reader": "cheng",
        }
        for name, number in sorted(numbered.items(), key=lambda item: int(item[1]))
    ]
    notes = [f"Cheng: {len(rows)} files; the whole set has {_WHOLE_SET}."]
    if len(found) > len(rows):
        notes.append(f"{len(found) - len(rows)} other files ending in .mat are not read.")
    return Listing(manifest_of(rows), CLASSES, tuple(notes), data_set="cheng")


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= len(str(_WHOLE_SET)) + 2
