"""Seeds: every random draw has a seed derived from the run's, and there is no global random state."""

from __future__ import annotations

import hashlib


def derive_seed(*parts: int | str) -> int:
    """Derive an independent seed from a run seed and the names of what it is for.

    Args:
        *parts: For example `(run_seed, round_index, "train")`.

    Returns:
        An integer in [0, 2**63), the same on every machine and Python version.
    """
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
