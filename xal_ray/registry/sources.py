"""The record of each source: where the images of a pool may come from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from xal_ray.nearest_name import nearest_name
from xal_ray.registry.lookup import Entry, Registry

OPTIONS = "options"
# Keys of `pool.source` that only some sources read.
SETTINGS = ("columns", "phantom", "findings", "several", "readers", "slices", OPTIONS)


@dataclass(frozen=True, kw_only=True)
class SourceSpec(Entry):
    """Holds what is known of a source without loading its code.

    The code is a function `(pool)`. One that is built in gives a `Listing`, a plug-in manifest rows or
    a `Listing`.

    Attributes:
        settings: Which of `SETTINGS` it reads: its pools depend on them, and on no other.
        needs_path: It reads what lies at `pool.source.path`; otherwise it makes its images itself.
        usual_for: What it is taken for where `pool.source.kind` is left out: a path to a file or a folder.
        is_told_groups: Groups are what somebody has written, and may be meant otherwise.
        source: Where the data set is described.
    """

    settings: tuple[str, ...] = ()
    needs_path: bool = True
    usual_for: Literal["file", "folder"] | None = None
    is_told_groups: bool = False
    source: str = ""


def _wrong(spec: SourceSpec) -> tuple[str, str] | None:
    """Return what does not fit in a plug-in's record: expected and found."""
    for name in spec.settings:
        if name not in SETTINGS:
            near = nearest_name(name, SETTINGS)
            found = f"'{name}'" + (f" (did you mean '{near}'?)" if near else "")
            return f"settings out of {', '.join(SETTINGS)}", found
    return None


_HERE = "xal_ray.pool.sources"
_OF_FINDINGS = ("findings", "several")


def _data_set(name: str, words: str, source: str, settings: tuple[str, ...] = _OF_FINDINGS) -> SourceSpec:
    return SourceSpec(name=name, path=f"{_HERE}.{name}:read", words=words, source=source, settings=settings)


SOURCES = Registry(
    SourceSpec,
    "source",
    "xal_ray.sources",
    (
        SourceSpec(
            name="table",
            path=f"{_HERE}.table:read",
            words="a manifest (CSV, TSV, Parquet) that names images, labels, groups, masks and boxes",
            settings=("columns",),
            usual_for="file",
            is_told_groups=True,
        ),
        SourceSpec(
            name="folder",
            path=f"{_HERE}.folder:read",
            words="a folder of images, with folders for classes, and splits",
            usual_for="folder",
        ),
        SourceSpec(
            name="phantom",
            path=f"{_HERE}.phantom:read",
            words="chest-like images, drawn",
            settings=("phantom",),
            needs_path=False,
        ),
        _data_set(
            "vindr",
            "VinDr-CXR chest X-rays, whose readers disagree, and VinBigData's copies of them",
            "https://physionet.org/content/vindr-cxr",
            (*_OF_FINDINGS, "readers"),
        ),
        _data_set(
            "siim_covid",
            "SIIM-FISABIO-RSNA COVID-19 chest X-rays",
            "https://www.kaggle.com/c/siim-covid19-detection",
        ),
        _data_set(
            "brats",
            "BraTS: slices of brain tumours in MRI",
            "https://www.synapse.org/brats",
            ("slices",),
        ),
        _data_set(
            "cheng",
            "brain tumours in MRI, of Cheng et al.",
            "https://doi.org/10.6084/m9.figshare.1512427",
            (),
        ),
        _data_set(
            "rsna_pneumonia",
            "RSNA Pneumonia chest X-rays",
            "https://www.kaggle.com/c/rsna-pneumonia-detection-challenge",
        ),
        _data_set(
            "nih_cxr14",
            "NIH ChestX-ray14",
            "https://nihcc.app.box.com/v/ChestXray-NIHCC",
        ),
        _data_set(
            "chexlocalize",
            "CheXlocalize: outlines on CheXpert's chest X-rays",
            "https://doi.org/10.1038/s42256-022-00536-x",
        ),
        _data_set(
            "isic2018",
            "skin lesions of ISIC 2018, task 3, and of HAM10000",
            "https://challenge.isic-archive.com/data",
        ),
        _data_set("coco", "images with annotations in COCO's JSON", "https://cocodataset.org"),
        _data_set("yolo", "images with labels in YOLO's text files", "https://docs.ultralytics.com/datasets"),
    ),
    _wrong,
)
