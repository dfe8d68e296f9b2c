"""BraTS: brain tumours in MRI, a folder a case, whose volumes become slices when they are read.

2020, 2021 (and whatever is named like them), also below folders of any other name:

    BraTS20_Training_001/BraTS20_Training_001_{flair,t1,t1ce,t2,seg}.nii[.gz]
    BraTS2021_00495/BraTS2021_00495_{flair,t1,t1ce,t2,seg}.nii.gz
    name_mapping.csv      Grade, ..., BraTS_2020_subject_ID      HGG, LGG or NA; for the task `grade`
    survival_info.csv     Brats20ID, Age, ...                    for the age band

2023 and later: hyphens, other names of the modalities, and a time point after the patient:

    BraTS-GLI-00000-000/BraTS-GLI-00000-000-{t2f,t1n,t1c,t2w,seg}.nii.gz

Case 355 of a common copy of 2020 has a mask of another name: where a mask is missing and exactly one unknown
volume lies beside the modalities, that is the mask, and a note says so.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from xal_ray.config import Pool, Slices
from xal_ray.errors import SourceError
from xal_ray.pool.manifest import Row, manifest_of
from xal_ray.pool.sources.common.csvs import read_csv
from xal_ray.pool.sources.common.grouping import age_band_of, check_group_by
from xal_ray.pool.sources.common.listing import Listing
from xal_ray.pool.sources.common.paths import SourceRoot
from xal_ray.pool.sources.common.tree import files_below

CLASSES = {
    "dominant": ("edema", "enhancing", "necrosis"),
    "tumor": ("no_tumor", "tumor"),
    "grade": ("HGG", "LGG"),
}

_ACCEPTED = (
    "folders like BraTS20_Training_001 with BraTS20_Training_001_{flair,t1,t1ce,t2,seg}.nii[.gz], or "
    "BraTS-GLI-00000-000 with BraTS-GLI-00000-000-{t2f,t1n,t1c,t2w,seg}.nii.gz"
)
_VOLUMES = (".nii", ".nii.gz")
_SEGMENTATION = "seg"
_UNDERSCORED = {name: name for name in ("t1", "t1ce", "t2", "flair", _SEGMENTATION)}
_HYPHENED = {"t1n": "t1", "t1c": "t1ce", "t2w": "t2", "t2f": "flair", _SEGMENTATION: _SEGMENTATION}
_TIME_POINT = re.compile(r"(.+-\d{3,})-\d{3}")
_CASE_COLUMNS = [f"BraTS_{year}_subject_ID" for year in range(2017, 2022)]
_SURVIVAL_COLUMNS = [f"{name}{year}ID" for name in ("Brats", "BraTS") for year in range(17, 22)]


@dataclass
class _Case:
    """A folder with volumes."""

    folder: str
    hyphened: bool = False
    files: dict[str, str] = field(default_factory=dict)  # by our name of the modality, or `seg`
    others: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.folder.rsplit("/", 1)[-1]

    @property
    def patient(self) -> str:
        """2023 and later number a patient's time points, after the last hyphen."""
        match = _TIME_POINT.fullmatch(self.name) if self.hyphened else None
        return match.group(1) if match else self.name


def read(pool: Pool) -> Listing:
    """List the cases of a BraTS folder.

    Args:
        pool: `source.path` is the folder or one above it; `source.slices` says which slices become images.

    Returns:
        A row a case, whose slices `pool/reading/brats.py` reads. The group is the patient. Excluded: cases
        without one of the modalities (`missing_file`) or without a mask (`no_mask`), and, for the task
        `grade`, those without a grade (`no_grade`).

    Raises:
        SourceError: There is no case, the channels do not fit, or the task needs what the edition lacks.
    """
    slices = pool.source.slices
    _check_settings(pool, slices)
    assert pool.source.path is not None  # noqa: S101 (resolved_kind has seen to it)
    root = SourceRoot(pool.source.path)
    files = files_below(root, (*_VOLUMES, ".csv"))
    cases = _cases(files, root)
    grades = _by_case(root, files, "name_mapping.csv", "Grade", _CASE_COLUMNS)
    ages = _by_case(root, files, "survival_info.csv", "Age", _SURVIVAL_COLUMNS)
    if slices.task == "grade" and not grades:
        raise SourceError(
            "the task 'grade' needs the grades of the cases",
            expected="name_mapping.csv with a column Grade (HGG or LGG), as in BraTS 2020",
            found="no such file, or none with a known grade",
            where=str(root.path),
            next_step="--set pool.source.slices.task=dominant, or tumor",
        )
    excluded: Counter[str] = Counter()
    rows, num_renamed = [], 0
    for case in cases:
        num_renamed += _adopt_mask(case)
        reason = _obstacle(case, slices, grades)
        if reason:
            excluded[reason] += 1
        else:
            rows.append(_row(case, root, slices, grades, ages))
    if not rows:
        raise SourceError(
            "no case can be used",
            expected="volumes of " + ", ".join(slices.modalities) + " and a mask in each case's folder",
            found=", ".join(f"{count} x {reason}" for reason, count in sorted(excluded.items())),
            where=str(root.path),
        )
    notes = _notes(cases, rows, excluded, num_renamed, slices)
    return Listing(manifest_of(rows), CLASSES[slices.task], notes, dict(excluded), data_set="brats")


def is_hyphened(name: str) -> bool:
    """Tell whether a file is named as in 2023 and later, where a mask's numbers mean other things."""
    return _modality(name.rsplit("/", 1)[-1])[1]


def _check_settings(pool: Pool, slices: Slices) -> None:
    check_group_by(pool, ["group_id"], "slices of one patient must stay together")
    number = len(slices.modalities)
    if number not in (1, 3):
        raise SourceError(
            "a slice has one or three modalities, which become its channels",
            found=", ".join(slices.modalities) or "none",
            where="pool.source.slices.modalities",
            next_step="--set 'pool.source.slices.modalities=[t1ce, flair, t2]'",
        )
    if number == 3 and pool.channels != 3:
        raise SourceError(
            "three modalities need three channels",
            found=f"pool.channels={pool.channels}",
            where="pool.source.slices.modalities",
            next_step="--set pool.channels=3, or --set 'pool.source.slices.modalities=[flair]'",
        )


def _modality(name: str) -> tuple[str | None, bool]:
    """Our name of a file's modality, and whether it is named in the hyphened way; None: it has none."""
    stem = name.lower().removesuffix(".gz").removesuffix(".nii")
    for separator, names in (("_", _UNDERSCORED), ("-", _HYPHENED)):
        word = stem.rpartition(separator)[2]
        if word != stem and word in names:
            return names[word], separator == "-"
    return None, False


def _cases(files: Sequence[str], root: SourceRoot) -> list[_Case]:
    """Folders in which at least one modality lies, sorted by path."""
    folders: dict[str, _Case] = {}
    for file in files:
        folder, _, name = file.rpartition("/")
        if not name.lower().endswith(_VOLUMES):
            continue
        # The root itself may be the one case that somebody looks at.
        case = folders.setdefault(folder, _Case(folder or root.path.name))
        modality, hyphened = _modality(name)
        if modality is None:
            case.others.append(file)
        else:
            case.files.setdefault(modality, file)  # x.nii comes before x.nii.gz, which is the same volume
            case.hyphened |= hyphened
    cases = [case for case in folders.values() if case.files.keys() - {_SEGMENTATION}]
    if not cases:
        raise SourceError(
            "the folder holds no BraTS case",
            expected=_ACCEPTED,
            found=f"{len(files)} files of NIfTI or CSV",
            where=str(root.path),
            next_step="set pool.source.path to the folder above the cases",
        )
    return cases


def _adopt_mask(case: _Case) -> bool:
    """Take the one unknown volume for the mask that is missing; whether that was so."""
    if _SEGMENTATION in case.files or len(case.others) != 1:
        return False
    case.files[_SEGMENTATION] = case.others[0]
    return True


def _obstacle(case: _Case, slices: Slices, grades: Mapping[str, str]) -> str | None:
    if not case.files.keys() >= set(slices.modalities):
        return "missing_file"
    if _SEGMENTATION not in case.files:
        return "no_mask"
    if slices.task == "grade" and grades.get(case.name) not in CLASSES["grade"]:
        return "no_grade"
    return None


def _row(
    case: _Case, root: SourceRoot, slices: Slices, grades: Mapping[str, str], ages: Mapping[str, str]
) -> Row:
    uris = [str(root.path / case.files[modality]) for modality in slices.modalities]
    return {
        "image_id": case.name,
        "uri": uris[0],
        "group_id": case.patient,
        "label": grades[case.name] if slices.task == "grade" else None,
        "mask_uri": str(root.path / case.files[_SEGMENTATION]),
        "boxes": [],
        "roi_state": "present",  # of the case; reading says it of each slice
        "reader": "brats",
        "channel_uris": uris,
        "study_id": case.name,
        "age_band": age_band_of(_years(ages.get(case.name))),
    }


def _by_case(
    root: SourceRoot, files: Sequence[str], name: str, column: str, case_columns: Sequence[str]
) -> dict[str, str]:
    """Return a column of the CSV files of this name, by case; of several columns of case ids all count."""
    found: dict[str, str] = {}
    for file in files:
        if file.rsplit("/", 1)[-1].lower() != name:
            continue
        table = read_csv(root, file, [column], case_columns)
        values = table.texts(column)
        for case_column in sorted(table.names - {column}):
            for case, value in zip(table.texts(case_column), values, strict=True):
                if case is not None and value is not None:
                    found.setdefault(case, value)
    return found


def _years(text: str | None) -> float:
    try:
        return float(text or "nan")
    except ValueError:
        return float("nan")


def _notes(
    cases: Sequence[_Case], rows: Sequence[Row], excluded: Mapping[str, int], num_renamed: int, slices: Slices
) -> tuple[str, ...]:
    editions = Counter(_edition(case) for case in cases)
    found = ", ".join(f"{count} of {edition}" for edition, count in sorted(editions.items()))
    patients = len({row["group_id"] for row in rows})
    notes = [
        f"BraTS: {len(cases)} cases ({found}); {len(rows)} are used, of {patients} patients.",
        f"The task is '{slices.task}'; channels: {', '.join(slices.modalities)}.",
    ]
    texts = {
        "missing_file": "without one of these modalities",
        "no_mask": "without a mask (validation cases have none)",
        "no_grade": "without a grade in name_mapping.csv",
    }
    notes += [f"Left out: {count} {texts[reason]}." for reason, count in sorted(excluded.items())]
    if num_renamed:
        notes.append(
            f"Without a volume named seg: {num_renamed}. The only other one in the folder was taken for the "
            "mask (case 355 of 2020 is known for this)."
        )
    return tuple(notes)


def _edition(case: _Case) -> str:
    if case.hyphened:
        return "2023 or later"
    match = re.match(r"brats(20\d\d|\d\d)_", case.name.lower())
    return ("20" + match.group(1)[-2:]) if match else "an unknown edition"
