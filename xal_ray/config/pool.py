"""Defines the section `pool`: where images come from, and how they are packed."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from xal_ray.config.names import SourceKind
from xal_ray.config.sections import Fraction, NaturalInt, PositiveFloat, PositiveInt, Section
from xal_ray.errors import ConfigError
from xal_ray.places import Place
from xal_ray.registry.sources import SOURCES

PlainValue = str | int | float | bool | None


class Columns(Section):
    """These are the columns of the manifest that hold what a pool needs.

    A name fits however it is spelled (case, spaces, marks). A column that the manifest lacks is skipped
    unless it is required, and null passes by one that is there.
    """

    image_id: str | None = "image_id"
    """This column holds the unique id of an image; without it, ids are made from the paths."""
    image: str = "image"
    """This column holds the path of the image file, relative to the manifest's folder."""
    label: str | None = "label"
    """This column holds the class; an empty cell is an unlabelled image."""
    group_id: str | None = "group_id"
    """This column holds the group (the patient), which splits never cut."""
    mask: str | None = "mask"
    """This column holds the path of an image file that marks the region of interest."""
    split: str | None = "split"
    """This column holds `pool`, `labeled`, `val` or `test`; images with an empty cell are dealt
    out by group.
    """
    box_x0: str | None = "box_x0"
    """This column holds the left edge of a box, in pixels of the original."""
    box_y0: str | None = "box_y0"
    """This column holds the upper edge of a box, in pixels of the original."""
    box_x1: str | None = "box_x1"
    """This column holds the right edge of a box, in pixels of the original and not part of it."""
    box_y1: str | None = "box_y1"
    """This column holds the lower edge of a box, in pixels of the original and not part of it."""
    frame: str | None = "frame"
    """This column holds the number of a DICOM file's frame or a NIfTI volume's slice, from 0."""
    study_id: str | None = "study_id"
    """This column holds the study that an image belongs to, for the counts of the pool's card."""
    site: str | None = "site"
    """This column holds the site where an image was taken, for the counts of the card and the report."""
    device: str | None = "device"
    """This column holds the device that took an image, for the counts of the card and the report."""
    sex: str | None = "sex"
    """This column holds the patient's sex, for the counts of the card and the report."""
    age_band: str | None = "age_band"
    """This column holds the patient's band of ages, for the counts of the card and the report."""


class Phantom(Section):
    """The generator draws chest-like images, some with a lesion (see `pool/sources/phantom.py`)."""

    num_patients: PositiveInt = 200
    """This many patients are drawn."""
    images_per_patient: PositiveInt = 3
    """This many images are drawn of each patient."""
    lesion_fraction: Fraction = 0.5
    """This fraction of the images has a lesion."""
    decoy_agreement: Fraction = 0.9
    """A marker in a corner agrees with the class in this fraction of the images, but never in
    the test split.
    """
    contrast: PositiveFloat = 0.35
    """A lesion is brighter than what is around it by about this much, where 1 is white."""
    noise: Annotated[float, Field(ge=0.0)] = 0.08
    """Every pixel has noise of this standard deviation, where 1 is white."""
    seed: int = 0
    """All that is drawn derives from this seed."""


class Annotators(Section):
    """These rules say what several annotators of one image make of it together."""

    labels: Literal["any", "majority", "all"] = "majority"
    """This many of an image's annotators must name a finding for it to count."""
    boxes: Literal["union", "majority_pixel", "cluster_mean"] = "union"
    """The boxes of several annotators become one region as their union, as the pixels that more than half of
    the annotators mark, or as the means of boxes that overlap.
    """


class Slices(Section):
    """These rules say which slices of a tumour's volumes become images, and what they are asked (`brats`)."""

    task: Literal["dominant", "tumor", "grade"] = "dominant"
    """A slice's class is its most frequent part of the tumour (`dominant`), whether it shows one (`tumor`),
    or the grade of its case (`grade`).
    """
    modalities: tuple[Literal["t1", "t1ce", "t2", "flair"], ...] = ("t1ce", "flair", "t2")
    """These volumes of a case, one or three, become the channels of its images."""
    stride: PositiveInt = 1
    """One slice in this many is looked at."""
    min_brain: NaturalInt = 1000
    """A slice needs this many voxels of brain."""
    min_tumor: NaturalInt = 100
    """This many voxels of tumour make a slice one with tumour."""
    max_per_patient: NaturalInt = 0
    """At most this many slices of a case become images, and 0 is all of them."""


class Source(Section):
    """The source says where images come from."""

    kind: SourceKind | None = None
    """The source is a manifest (`table`), an image folder, generated images or a public data set of this
    kind; null tells a manifest from a folder by the path.
    """
    path: Place | None = None
    """The manifest, the image folder or the root of the data set lies here."""
    columns: Columns = Columns()
    phantom: Phantom = Phantom()
    findings: tuple[str, ...] | None = None
    """These findings are the classes where an image may show several; null takes the usual ones of the data
    set.
    """
    several: Literal["leave_out", "first"] = "leave_out"
    """An image with more than one of these findings is left out, or gets the first of the list."""
    readers: Annotators = Annotators()
    slices: Slices = Slices()
    options: dict[str, PlainValue | tuple[PlainValue, ...]] = Field(default={})
    """These plain values are what a source of another package reads, by names of its own."""

    def resolved_kind(self) -> SourceKind:
        """Return the kind as it is written or, where it is left out, as the path tells it.

        Raises:
            ConfigError: Neither a kind nor a path is given, or a kind that needs a path has none.
        """
        kind = self.kind
        if kind is None:
            if self.path is None:
                raise ConfigError(
                    "the pool has no source",
                    where="pool.source",
                    next_step="set pool.source.path to a manifest or a folder, or pool.source.kind=phantom",
                )
            found = "folder" if self.path.is_dir() else "file"
            kind = next(spec.name for spec in SOURCES if spec.usual_for == found)
        if self.path is None and SOURCES[kind].needs_path:
            raise ConfigError(
                f"a source of kind '{kind}' needs a path",
                where="pool.source.path",
                next_step="--set pool.source.path=PATH",
            )
        return kind


class Splits(Section):
    """Groups without a split of their own are dealt out by these rules.

    The fractions are of each class's images with `stratify`, else of groups.
    """

    val: Fraction = 0.15
    """This fraction is dealt to the validation split."""
    test: Fraction = 0.2
    """This fraction is dealt to the test split."""
    stratify: bool = True
    """The fractions hold within each class, not over all groups alike."""
    seed: int = 0
    """Which groups go where derives from this seed."""

    @model_validator(mode="after")
    def _leave_a_pool(self) -> Splits:
        if self.val + self.test >= 1.0:
            raise ValueError(f"val + test must stay below 1, found {self.val + self.test:g}")
        return self


class Limits(Section):
    """A file that would cost more than this is refused (decompression bombs), and too many stop `prepare`."""

    max_pixels: PositiveInt = 64_000_000
    """A frame may have at most this many pixels."""
    max_voxels: PositiveInt = 512_000_000
    """All frames of a file together may have at most this many pixels."""
    max_frames: PositiveInt = 4096
    """A file may have at most this many frames."""
    max_file_bytes: PositiveInt = 512 * 1024**2
    """A file may have at most this many bytes."""
    strict: bool = False
    """Files are read in a child process whose memory and time are capped."""
    max_memory_mb: Annotated[int, Field(ge=64)] = 2048
    """In strict mode, reading one file may take this many megabytes."""
    decode_timeout_s: PositiveFloat = 60.0
    """In strict mode, reading one file may take this many seconds."""
    max_error_fraction: Fraction = 0.01
    """`prepare` gives up where more than this fraction of the images can't be read."""


class Dicom(Section):
    """Stored values of a DICOM file become grey by these rules."""

    window: Literal["header", "range"] | tuple[float, PositiveFloat] = "header"
    """Grey follows the VOI LUT or window of the header, else the range of the values (`header`), always that
    range (`range`), or a centre and width in modality units (Hounsfield, say).
    """


class Raster(Section):
    """Grey pixels of more than 8 bits, of a PNG or TIFF file, become 8 bits by these rules."""

    window: Literal["dtype", "range"] | tuple[float, PositiveFloat] = "dtype"
    """Grey goes over all that the file's bits can hold (`dtype`), from the least to the largest value of each
    picture (`range`), or over a centre and width in units of the values; the last two read signed and real
    values, too.
    """


class Nifti(Section):
    """A NIfTI volume becomes images by these rules."""

    plane: Literal["axial", "coronal", "sagittal"] = "axial"
    """Volumes are cut into slices of this plane."""
    scale: Literal["slice", "volume"] = "slice"
    """The least value becomes black and the largest white, within each slice or over the whole volume."""


class Pool(Section):
    """The packed pool is what a run chooses images from, and this says what it is made from."""

    path: Place | None = None
    """The packed pool lies in this folder, which is made on first use; null is `pools/<name>`."""
    source: Source = Source()
    image_size: Annotated[int, Field(ge=16, le=2048)] = 224
    """Images are resized to this height and width, in pixels."""
    channels: Literal[1, 3] = 1
    """Images are packed in grey (1) or in colour (3)."""
    classes: tuple[str, ...] | None = None
    """These are the classes, in this order; null takes those that the labels name."""
    group_by: Literal["group_id", "header", "image"] = "group_id"
    """A group is what the manifest says (`group_id`), the patient of each DICOM file's header as a pseudonym
    (`header`), or each image by itself (`image`).
    """
    splits: Splits = Splits()
    dicom: Dicom = Dicom()
    raster: Raster = Raster()
    nifti: Nifti = Nifti()
    limits: Limits = Limits()
    compare_with: tuple[Place, ...] = ()
    """These are packed pools in which the same pictures would be a leak, and are warned about."""
    rows_per_part: Annotated[int, Field(ge=1, le=65536)] = 512
    """Each file of the pool holds the pixels of this many images."""
