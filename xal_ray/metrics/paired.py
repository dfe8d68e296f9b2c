"""Measures how far apart two arms are that ran with the same seeds, and how sure that is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.stats import permutation_test

from xal_ray.metrics.intervals import t_interval

FloatArray = npt.NDArray[np.float64]

NUM_SIGN_FLIPS = 10_000  # up to 13 pairs have fewer, and are then tested exactly


def mean_with_interval(
    values: Sequence[float], within: tuple[float, float]
) -> tuple[float, float | None, float | None]:
    """Return a mean over seeds with its 95 % interval: of an arm's values, or of differences between arms.

    Args:
        values: One for each seed of a run; differences are an arm's value less the other arm's, same seed.
        within: The least and the largest value that there can be; the interval ends there.

    Returns:
        (mean, low, high); low and high are None for a single value.

    Raises:
        ValueError: There are no values, or they are not finite.

    Source:
        `intervals.t_interval`; normal differences are covered at 95 % from two seeds on.
    """
    found = _finite(values)
    mean, interval = float(found.mean()), t_interval(found)
    if interval is None:
        return mean, None, None
    return mean, max(within[0], interval[0]), min(within[1], interval[1])


def sign_flip_test(differences: Sequence[float], seed: int) -> float:
    """Test whether the mean of paired differences is zero: a two-sided p-value from flipping their signs.

    Exact while 2^n is at most `NUM_SIGN_FLIPS`, else from that many random flips, the observed one counted.

    Args:
        differences: One for each seed of a run: an arm's value less the other arm's, same seed.
        seed: Of the random flips.

    Returns:
        In (0, 1]; 1 for a single difference, which no flip can tell from chance, and where all are zero.

    Raises:
        ValueError: There are no differences, or they are not finite.

    Source:
        Ernst, "Permutation Methods: A Basis for Exact Inference" (2004), section 3.
    """
    values = _finite(differences)
    if len(values) == 1 or not values.any():
        return 1.0
    found = permutation_test(
        (values,),
        np.mean,
        permutation_type="samples",
        vectorized=True,
        n_resamples=NUM_SIGN_FLIPS,
        random_state=np.random.default_rng(seed),
    )
    return min(1.0, float(found.pvalue))


def smallest_sign_flip_p(num_differences: int) -> float:
    """Return the smallest p-value that `sign_flip_test` can give for n differences: `2 / 2^n`, 1 for none."""
    exact = 2.0 ** (1 - num_differences)
    return min(1.0, exact if 2**num_differences <= NUM_SIGN_FLIPS else 2.0 / (NUM_SIGN_FLIPS + 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjustment of p-values that are looked at together: controls the chance of any false alarm.

    The i-th smallest of m becomes `max_{j <= i} min(1, (m - j + 1) p_j)`.

    Args:
        p_values: In [0, 1].

    Returns:
        The adjusted values, in the same order.

    Source:
        Holm, "A simple sequentially rejective multiple test procedure" (1979).
    """
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for place, index in enumerate(np.argsort(p_values, kind="stable")):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def _finite(differences: Sequence[float]) -> FloatArray:
    values = np.asarray(differences, dtype=np.float64)
    if values.ndim != 1 or not len(values) or not np.isfinite(values).all():
        raise ValueError("values must be at least one finite number")
    return values
