"""Which patient an image shows, where a set tells, and what it says where it does not."""

from __future__ import annotations

from collections.abc import Sequence

from xal_ray.config import Pool
from xal_ray.errors import SourceError

_MEANING = {
    "group_id": "the set's own patients",
    "header": "the patient in each DICOM header, as a pseudonym",
    "image": "every image is a patient of its own",
}


def check_group_by(pool: Pool, possible: Sequence[str], why: str) -> None:
    """Refuse a way of grouping that the set does not allow.

    Args:
        pool: `group_by` is what was asked.
        possible: What can be asked instead.
        why: One sentence: what the set lacks.

    Raises:
        SourceError: It is none of the possible.
    """
    if pool.group_by not in possible:
        raise SourceError(
            why,
            expected=" or ".join(f"pool.group_by={name} ({_MEANING[name]})" for name in possible),
            found=f"pool.group_by={pool.group_by}",
            where=str(pool.source.path),
            next_step=f"--set pool.group_by={possible[0]}",
        )


def age_band_of(years: float) -> str | None:
    """Ten years: "00-09", "40-49", "90+" from ninety on; None for what is no age (some sets hold 411)."""
    if not 0 <= years <= 120:
        return None
    if years >= 90:
        return "90+"
    decade = int(years // 10 * 10)
    return f"{decade:02}-{decade + 9:02}"


def sex_of(text: str | None) -> str | None:
    """F, M, O or None, from what sets write: F, Female, M, male."""
    first = (text or "").strip()[:1].upper()
    return first if first in ("F", "M", "O") else None
