"""The section `pool`: where images come from, and how they are packed."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from xal_ray.config.names import SourceKind
from xal_ray.config.sections import Fraction, NaturalInt, PositiveFloat, PositiveInt, Section
from xal_ray.errors import ConfigError
from xal_ray.places import Place


class Columns(Section):
    """Which columns of the manifest hold what.

    A name fits however it is spelled (case, spaces, marks). Columns that it lacks are skipped unless
    required; null passes one by that is there.
    """

    image_id: str | None = "image_id"
    image: str = "image"
    label: str | None = "label"
    group_id: str | None = "group_id"
    mask: str | None = "mask"
    split: str | None = "split"
    box_x0: str | None = "box_x0"
    box_y0: str | None = "box_y0"
    box_x1: str | None = "box_x1"
    box_y1: str | None = "box_y1"
    frame: str | None = "frame"
    study_id: str | None = "study_id"
    site: str | None = "site"
    device: str | None = "device"
    sex: str | None = "sex"
    age_band: str | None = "age_band"


class Phantom(Section):
    """The generator of chest-like images (see `pool/sources/phantom.py`)."""

    num_patients: PositiveInt = 200
    images_per_patient: PositiveInt = 3
    lesion_fraction: Fraction = 0.5
    decoy_agreement: Fraction = 0.9
    contrast: PositiveFloat = 0.35
    noise: Annotated[float, Field(ge=0.0)] = 0.08
    seed: int = 0


class Annotators(Section):
    """What several readers of one image make of it together."""

    labels: Literal["any", "majority", "all"] = "majority"  # how many of them must name a finding
    boxes: Literal["union", "majority_pixel", "cluster_mean"] = "union"


class Slices(Section):
    """Which slices of a tumour's volumes become images, and what they are asked (`brats`)."""

    task: Literal["dominant", "tumor", "grade"] = "dominant"
    modalities: tuple[Literal["t1", "t1ce", "t2", "flair"], ...] = ("t1ce", "flair", "t2")  # 1 or 3: channels
    stride: PositiveInt = 1  # every so manieth slice
    min_brain: NaturalInt = 1000  # voxels of brain that a slice needs
    min_tumor: NaturalInt = 100  # voxels of tumour that make a slice one with tumour
    max_per_patient: NaturalInt = 0  # 0 = all


class Source(Section):
    """Where images come from."""

    kind: SourceKind | None = None
    path: Place | None = None
    columns: Columns = Columns()
    phantom: Phantom = Phantom()
    findings: tuple[str, ...] | None = None  # what makes a label, where images may show several; None = usual
    several: Literal["leave_out", "first"] = "leave_out"  # an image with more than one of these findings
    readers: Annotators = Annotators()
    slices: Slices = Slices()

    def resolved_kind(self) -> SourceKind:
        """The kind as written or, where it is left out, as the path tells it.

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
            kind = "folder" if self.path.is_dir() else "table"
        if kind != "phantom" and self.path is None:
            raise ConfigError(
                f"a source of kind '{kind}' needs a path",
                where="pool.source.path",
                next_step="--set pool.source.path=PATH",
            )
        return kind


class Splits(Section):
    """How groups without a split of their own are dealt out.

    The fractions are of each class's images with `stratify`, else of groups.
    """

    val: Fraction = 0.15
    test: Fraction = 0.2
    stratify: bool = True
    seed: int = 0

    @model_validator(mode="after")
    def _leave_a_pool(self) -> Splits:
        if self.val + self.test >= 1.0:
            raise ValueError(f"val + test must stay below 1, found {self.val + self.test:g}")
        return self


class Limits(Section):
    """What a single file may cost before it is refused (decompression bombs), and how many may fail."""

    max_pixels: PositiveInt = 64_000_000  # of one frame
    max_voxels: PositiveInt = 512_000_000  # of all frames of a file together
    max_frames: PositiveInt = 4096
    max_file_bytes: PositiveInt = 512 * 1024**2
    strict: bool = False  # files are read in a child process whose memory and time are capped
    max_memory_mb: Annotated[int, Field(ge=64)] = 2048  # strict: what reading one file may take
    decode_timeout_s: PositiveFloat = 60.0  # strict: and how long
    max_error_fraction: Fraction = 0.01


class Dicom(Section):
    """How stored values of a DICOM file become grey."""

    # header: its VOI LUT or window, else the range of its values. range: always the range. Or centre and
    # width, in modality units (Hounsfield, say).
    window: Literal["header", "range"] | tuple[float, PositiveFloat] = "header"


class Raster(Section):
    """How grey pixels of more than 8 bits, of a PNG or TIFF file, become 8 bits."""

    # dtype: all that its bits can hold, from black to white. range: from the least to the largest value of
    # each picture. Or centre and width, in units of the values. The last two read signed and real values too.
    window: Literal["dtype", "range"] | tuple[float, PositiveFloat] = "dtype"


class Nifti(Section):
    """How a NIfTI volume becomes images."""

    plane: Literal["axial", "coronal", "sagittal"] = "axial"
    scale: Literal["slice", "volume"] = "slice"  # where the least value becomes black, and the largest white


class Pool(Section):
    """The packed pool and what it is made from."""

    path: Place | None = None
    source: Source = Source()
    image_size: Annotated[int, Field(ge=16, le=2048)] = 224
    channels: Literal[1, 3] = 1
    classes: tuple[str, ...] | None = None
    # header: the patient of each DICOM file's header, as a pseudonym. image: each image is its own group.
    group_by: Literal["group_id", "header", "image"] = "group_id"
    splits: Splits = Splits()
    dicom: Dicom = Dicom()
    raster: Raster = Raster()
    nifti: Nifti = Nifti()
    limits: Limits = Limits()
    compare_with: tuple[Place, ...] = ()  # packed pools in which the same pictures would be a leak
    rows_per_part: Annotated[int, Field(ge=1, le=65536)] = 512
