"""Chest-like images drawn on demand: a lesion with its exact outline, and a decoy that lies.

Every image shows two lung fields, ribs, a heart, a diaphragm and vessels; a patient's images share their
anatomy. An image of class `lesion` has one bright ellipse with a soft edge in a lung. A small marker in a
corner agrees with the class in `decoy_agreement` of the images of `pool` and `val` and in half of those of
`test`: a model that looks at the marker instead of the lesion does well until it is tested.

Rows hold only an index; class, marker and picture follow from it and the settings.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from xal_ray.config import Phantom, Pool
from xal_ray.pool.manifest import MANIFEST_SCHEMA, Row, manifest_of
from xal_ray.pool.sources.common.listing import Listing
from xal_ray.seeds import derive_seed

SCHEME = "phantom:"
CLASSES = ("lesion", "normal")

_TEST_FRACTION = 0.2
_VAL_FRACTION = 0.15
# Half axes as fractions of the image, drawn log-uniformly: from hardly seen to plain.
_LESION_HALF_AXES = (0.03, 0.11)
_LESION_STRENGTHS = (0.6, 1.1)  # times `contrast`
_EDGE_WIDTH = 0.12  # of the half axis
_OUTLINE_SAMPLES = 8  # along each side of a pixel
# Upper and lower edge, left and right edge, as fractions of the image: an L of two bars.
_DECOY_BARS = ((0.05, 0.12, 0.88, 0.90), (0.10, 0.12, 0.88, 0.94))
_DECOY_BRIGHTNESS = 0.45

Plane = npt.NDArray[np.float64]


@dataclass(frozen=True)
class _Case:
    """Holds what one image shows.

    Attributes:
        patient: Its patient's number.
        split: Of all images of the patient.
        has_lesion: Whether it is of class `lesion`.
        has_decoy: Whether the marker is there.
    """

    patient: int
    split: Literal["pool", "val", "test"]
    has_lesion: bool
    has_decoy: bool


@dataclass(frozen=True)
class _Lung:
    """An elliptic lung field; all lengths are fractions of the image."""

    centre: tuple[float, float]  # y, x
    half_axes: tuple[float, float]  # along y, x
    tilt: float  # radians


@dataclass(frozen=True)
class _Anatomy:
    """Holds what the images of one patient share."""

    lungs: tuple[_Lung, _Lung]
    rib_phase: float
    num_ribs: float
    rib_strength: float
    heart: tuple[float, float]  # half axes along y, x
    diaphragm: float  # its height at the middle of the lungs
    brightness: float


def read(pool: Pool) -> Listing:
    """List what would be drawn."""
    listed = rows(pool.source.phantom)
    if pool.group_by == "image":
        position = MANIFEST_SCHEMA.get_field_index("group_id")
        listed = listed.set_column(position, MANIFEST_SCHEMA.field("group_id"), listed["image_id"])
    return Listing(listed)


def rows(phantom: Phantom) -> pa.Table:
    """List the images.

    Returns:
        A manifest (`MANIFEST_SCHEMA`) of `num_patients * images_per_patient` rows with splits of their own
        (the decoy depends on them): 20 % of the patients in `test`, 15 % in `val`, by hash. Each split holds
        `lesion_fraction` lesions, exact to one image.
    """
    return manifest_of(
        [
            {
                "image_id": f"phantom-{index:06d}",
                "uri": f"{SCHEME}{index:06d}",
                "group_id": f"patient-{case.patient:05d}",
                "label": "lesion" if case.has_lesion else "normal",
                "split": case.split,
                "boxes": [],
                "roi_state": "present" if case.has_lesion else "absent_confirmed",
            }
            for index, case in enumerate(_cases(phantom))
        ]
    )


def draw(
    row: Row, phantom: Phantom, image_size: int
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32] | None]:
    """Draw one image: the same for the same row, settings and size, in any process.

    Args:
        row: A row of `rows(phantom)`; only its `uri` is read.
        phantom: The settings that the row was made with.
        image_size: Height and width, pixels.

    Returns:
        The (image_size, image_size) image, and the share of each pixel in [0, 1] that the lesion covers; None
        without a lesion.
    """
    index = int(row["uri"].removeprefix(SCHEME))
    case = _cases(phantom)[index]
    anatomy = _anatomy(np.random.default_rng(derive_seed(phantom.seed, "patient", case.patient)))
    rng = np.random.default_rng(derive_seed(phantom.seed, "image", index))
    y, x = _pixel_centres(image_size)
    light = _draw_chest(anatomy, y, x)
    light += _draw_vessels(anatomy, rng, y, x)
    light += _draw_clouds(rng, image_size)
    roi = None
    if case.has_lesion:
        lesion = _Ellipse.in_a_lung(anatomy, rng)
        light += phantom.contrast * rng.uniform(*_LESION_STRENGTHS) * lesion.soft(y, x)
        roi = lesion.coverage(image_size)
    if case.has_decoy:
        light += _DECOY_BRIGHTNESS * _decoy_coverage(image_size)
    light *= rng.uniform(0.9, 1.1)
    light += phantom.noise * rng.standard_normal(light.shape)
    return np.round(np.clip(light, 0, 1) * 255).astype(np.uint8), roi


@lru_cache(maxsize=4)
def _cases(phantom: Phantom) -> tuple[_Case, ...]:
    """Deal out splits to patients, classes to images and markers to images, each by hash and exact quota."""
    seed = phantom.seed
    patients = _by_hash(range(phantom.num_patients), seed, "split")
    # At least one patient each, as long as one is left for the pool.
    num_test = max(round(_TEST_FRACTION * len(patients)), int(len(patients) >= 3))
    num_val = max(round(_VAL_FRACTION * len(patients)), int(len(patients) >= 3))
    members: dict[Literal["pool", "val", "test"], list[int]] = {
        "test": patients[:num_test],
        "val": patients[num_test : num_test + num_val],
        "pool": patients[num_test + num_val :],
    }
    cases: dict[int, _Case] = {}
    for split, chosen in members.items():
        per_patient = phantom.images_per_patient
        images = [patient * per_patient + number for patient in chosen for number in range(per_patient)]
        images = _by_hash(images, seed, "class")
        num_lesions = round(phantom.lesion_fraction * len(images))
        agreement = 0.5 if split == "test" else phantom.decoy_agreement
        for has_lesion, of_class in ((True, images[:num_lesions]), (False, images[num_lesions:])):
            num_agreeing = round(agreement * len(of_class))
            for rank, index in enumerate(_by_hash(of_class, seed, "decoy")):
                has_decoy = has_lesion == (rank < num_agreeing)
                cases[index] = _Case(index // per_patient, split, has_lesion, has_decoy)
    return tuple(cases[index] for index in sorted(cases))


def _by_hash(numbers: Iterable[int], seed: int, purpose: str) -> list[int]:
    return sorted(numbers, key=lambda number: derive_seed(seed, purpose, number))


def _anatomy(rng: np.random.Generator) -> _Anatomy:
    lungs = []
    for side in (-1, 1):
        centre = (rng.uniform(0.44, 0.50), 0.5 + side * rng.uniform(0.19, 0.22))
        lungs.append(
            _Lung(centre, (rng.uniform(0.27, 0.34), rng.uniform(0.12, 0.155)), side * rng.uniform(0, 0.2))
        )
    return _Anatomy(
        lungs=(lungs[0], lungs[1]),
        rib_phase=rng.uniform(0, 2 * math.pi),
        num_ribs=rng.uniform(8, 11),
        rib_strength=rng.uniform(0.05, 0.10),
        heart=(rng.uniform(0.13, 0.18), rng.uniform(0.10, 0.15)),
        diaphragm=rng.uniform(0.72, 0.80),
        brightness=rng.uniform(0.55, 0.65),
    )


def _draw_chest(anatomy: _Anatomy, y: Plane, x: Plane) -> Plane:
    """Return the body without vessels: soft tissue, air in the lungs, heart, diaphragm and ribs."""
    body = _step(1 - np.hypot((y - 0.62) / 0.75, (x - 0.5) / 0.47), 0.03)
    air = np.zeros_like(body)
    for lung in anatomy.lungs:
        air = np.maximum(air, _step(1 - _radius(lung, y, x), 0.05))
    dome = anatomy.diaphragm + 1.2 * (np.abs(x - 0.5) - 0.2) ** 2
    air *= _step(dome - y, 0.012)
    heart_y, heart_x = anatomy.heart
    air *= 1 - 0.9 * _step(1 - np.hypot((y - 0.62) / heart_y, (x - 0.56) / heart_x), 0.08)
    # Ribs fall away from the spine: bands of equal y + slope * |x - 0.5|^2.
    band = anatomy.num_ribs * 2 * math.pi * (y - 0.9 * (x - 0.5) ** 2) + anatomy.rib_phase
    ribs = anatomy.rib_strength * _step(np.cos(band) - 0.35, 0.15)
    spine = 0.12 * np.exp(-(((x - 0.5) / 0.035) ** 2))
    tissue = anatomy.brightness + 0.10 * (y - 0.5) + spine
    return np.asarray(body * (tissue - 0.38 * air + ribs * (0.3 + 0.7 * air)) + 0.04)


def _draw_vessels(anatomy: _Anatomy, rng: np.random.Generator, y: Plane, x: Plane) -> Plane:
    """Streaks that run from the middle into the lungs: bright like lesions, but thin."""
    light = np.zeros_like(y + x)
    for lung in anatomy.lungs:
        side = math.copysign(1, lung.centre[1] - 0.5)
        for _ in range(5):
            angle = rng.uniform(-1.1, 1.1)
            along_y, along_x = math.sin(angle), side * math.cos(angle)
            from_y, from_x = y - lung.centre[0] - rng.uniform(-0.05, 0.05), x - 0.5 - side * 0.08
            distance = from_y * along_x - from_x * along_y
            length = rng.uniform(0.10, 0.22)
            position = (from_y * along_y + from_x * along_x) / length
            width = rng.uniform(0.006, 0.011)
            fade = np.clip(1 - position, 0, 1) * (position > 0)
            light += rng.uniform(0.08, 0.16) * fade * np.exp(-((distance / width) ** 2))
    return light


def _draw_clouds(rng: np.random.Generator, image_size: int) -> Plane:
    """Soft shadows of overlying tissue: a coarse random field, smoothly enlarged."""
    coarse = rng.normal(0, 0.035, (7, 7))
    position = np.linspace(0, 6, image_size)
    # Cosine weights between neighbouring knots, the same along both axes.
    left = np.minimum(position.astype(int), 5)
    share = (1 - np.cos(math.pi * (position - left))) / 2
    weights = np.zeros((image_size, 7))
    weights[np.arange(image_size), left] = 1 - share
    weights[np.arange(image_size), left + 1] = share
    return np.asarray(weights @ coarse @ weights.T)


@dataclass(frozen=True)
class _Ellipse:
    """A lesion: centre, half axes (fractions of the image) and angle."""

    centre: tuple[float, float]  # y, x
    half_axes: tuple[float, float]
    angle: float

    @classmethod
    def in_a_lung(cls, anatomy: _Anatomy, rng: np.random.Generator) -> _Ellipse:
        """Draw a lesion whose centre lies well inside a lung, above the diaphragm and beside the heart."""
        smallest, largest = _LESION_HALF_AXES
        long_axis = smallest * (largest / smallest) ** rng.random()
        half_axes = (long_axis, long_axis * rng.uniform(0.65, 1.0))
        lung = anatomy.lungs[int(rng.integers(2))]
        outward = math.copysign(0.15, lung.centre[1] - 0.5)
        radius, turn = 0.7 * math.sqrt(rng.random()), rng.uniform(0, 2 * math.pi)
        along = radius * math.sin(turn) - 0.15
        across = 0.8 * radius * math.cos(turn) + outward
        cos, sin = math.cos(lung.tilt), math.sin(lung.tilt)
        dy, dx = lung.half_axes[0] * along, lung.half_axes[1] * across
        centre = (lung.centre[0] + dy * cos - dx * sin, lung.centre[1] + dy * sin + dx * cos)
        return cls(centre, half_axes, rng.uniform(0, math.pi))

    def radius(self, y: Plane, x: Plane) -> Plane:
        """Return the distance from the centre, 1 on the outline."""
        dy, dx = y - self.centre[0], x - self.centre[1]
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        return np.asarray(
            np.hypot((dy * cos - dx * sin) / self.half_axes[0], (dy * sin + dx * cos) / self.half_axes[1])
        )

    def soft(self, y: Plane, x: Plane) -> Plane:
        """Brightness in [0, 1] that falls through a half on the outline."""
        return _step(1 - self.radius(y, x), _EDGE_WIDTH)

    def coverage(self, image_size: int) -> npt.NDArray[np.float32]:
        """Return the share of each pixel that lies inside the outline."""
        covered = np.zeros((image_size, image_size), dtype=np.float32)
        # Only around the lesion: the samples are many.
        reach = max(self.half_axes)
        rows, columns = (
            slice(max(0, math.floor((at - reach) * image_size)), math.ceil((at + reach) * image_size))
            for at in self.centre
        )
        y, x = _pixel_centres(image_size * _OUTLINE_SAMPLES)
        inside = self.radius(y[_finer(rows)], x[:, _finer(columns)]) <= 1
        blocks = inside.reshape(-1, _OUTLINE_SAMPLES, inside.shape[1] // _OUTLINE_SAMPLES, _OUTLINE_SAMPLES)
        covered[rows, columns] = blocks.mean(axis=(1, 3), dtype=np.float32)
        return covered


def _finer(pixels: slice) -> slice:
    """Return the samples of a range of pixels."""
    return slice(pixels.start * _OUTLINE_SAMPLES, pixels.stop * _OUTLINE_SAMPLES)


def _radius(lung: _Lung, y: Plane, x: Plane) -> Plane:
    dy, dx = y - lung.centre[0], x - lung.centre[1]
    cos, sin = math.cos(lung.tilt), math.sin(lung.tilt)
    along, across = (dy * cos + dx * sin) / lung.half_axes[0], (dx * cos - dy * sin) / lung.half_axes[1]
    return np.asarray(np.hypot(along, across))


def _decoy_coverage(image_size: int) -> Plane:
    """Return the share of each pixel that the marker covers."""
    edges = np.arange(image_size + 1) / image_size
    covered = np.zeros((image_size, image_size))
    for top, bottom, left, right in _DECOY_BARS:
        covered = np.maximum(covered, np.outer(_overlap(edges, top, bottom), _overlap(edges, left, right)))
    return covered


def _overlap(edges: Plane, start: float, stop: float) -> Plane:
    clipped = np.clip(edges, start, stop)
    return np.asarray(np.diff(clipped) / np.diff(edges))


def _pixel_centres(image_size: int) -> tuple[Plane, Plane]:
    """(size, 1) y and (1, size) x of the pixels' centres, in [0, 1]."""
    centres = (np.arange(image_size) + 0.5) / image_size
    return centres[:, None], centres[None, :]


def _step(value: Plane, width: float) -> Plane:
    """Return a smooth step from 0 to 1 about zero."""
    return np.asarray(0.5 * (1 + np.tanh(value / width)))
