"""Uncertainty of predictions: one number in [0, 1] an image, 1 = most uncertain.

All take probabilities (n, c) with c >= 2 and compute in float64. A row with a NaN stays NaN.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]


def entropy(probs: npt.NDArray[np.floating]) -> FloatArray:
    """Normalised entropy `H(p) / ln C`, with `0 ln 0 = 0`.

    Args:
        probs: (n, c) probabilities, rows sum to 1.

    Returns:
        (n,) in [0, 1].

    Raises:
        ValueError: Not (n, c), or fewer than two classes.

    Source:
        Shannon, "A Mathematical Theory of Communication" (1948); Settles, "Active Learning Literature
        Survey" (2009), section 3.1.
    """
    clipped = np.clip(_at_least_two_classes(probs), 0.0, 1.0)
    logs = np.log(clipped, out=np.zeros_like(clipped), where=clipped > 0.0)
    return _unit(-(clipped * logs).sum(axis=1) / np.log(clipped.shape[1]))


def margin(probs: npt.NDArray[np.floating]) -> FloatArray:
    """Margin uncertainty `1 - (p1 - p2)`, p1 and p2 the two largest probabilities.

    Args:
        probs: (n, c) probabilities, rows sum to 1.

    Returns:
        (n,) in [0, 1].

    Raises:
        ValueError: Not (n, c), or fewer than two classes.

    Source:
        Scheffer, Decomain, Wrobel, "Active Hidden Markov Models for Information Extraction" (2001).
    """
    return _unit(1.0 - _top_gap(_at_least_two_classes(probs)))


def least_confidence(probs: npt.NDArray[np.floating]) -> FloatArray:
    """Least confidence `(1 - p1) C / (C - 1)`, p1 the largest probability; 1 for the uniform distribution.

    Args:
        probs: (n, c) probabilities, rows sum to 1.

    Returns:
        (n,) in [0, 1].

    Raises:
        ValueError: Not (n, c), or fewer than two classes.

    Source:
        Lewis and Gale, "A Sequential Algorithm for Training Text Classifiers" (1994).
    """
    values = _at_least_two_classes(probs)
    num_classes = values.shape[1]
    return _unit((1.0 - values.max(axis=1)) * num_classes / (num_classes - 1))


def bald(probs: npt.NDArray[np.floating]) -> FloatArray:
    """BALD: the information that the label holds about the model, `(H(mean_t p_t) - mean_t H(p_t)) / ln C`.

    Args:
        probs: (n, t, c) probabilities of t >= 1 sampled models, last axis sums to 1.

    Returns:
        (n,) in [0, 1]: 0 where all samples agree.

    Raises:
        ValueError: Not (n, t, c), or fewer than two classes.

    Source:
        Houlsby et al., "Bayesian Active Learning for Classification and Preference Learning" (2011),
        equation 2; with dropout samples, Gal, Islam, Ghahramani, "Deep Bayesian Active Learning with Image
        Data" (2017).
    """
    if probs.ndim != 3 or probs.shape[1] < 1:
        raise ValueError(f"expected (n, t, c), found shape {probs.shape}")
    count, samples, classes = probs.shape
    each = entropy(probs.reshape(-1, classes)).reshape(count, samples)
    return _unit(entropy(probs.mean(axis=1, dtype=np.float64)) - each.mean(axis=1))


def logit_gap(logits: npt.NDArray[np.floating]) -> FloatArray:
    """The distance from the largest to the second largest logit: near 0, rounding can flip the prediction.

    Args:
        logits: (n, c).

    Returns:
        (n,) >= 0, in logits.

    Raises:
        ValueError: Not (n, c), or fewer than two classes.
    """
    return _top_gap(_at_least_two_classes(logits))


def _at_least_two_classes(values: npt.NDArray[np.floating]) -> FloatArray:
    if values.ndim != 2 or values.shape[1] < 2:
        raise ValueError(f"expected (n, c) with c >= 2, found shape {values.shape}")
    return values.astype(np.float64)


def _top_gap(values: FloatArray) -> FloatArray:
    top_two = np.partition(values, -2, axis=1)[:, -2:]
    gap: FloatArray = top_two[:, 1] - top_two[:, 0]
    return gap


def _unit(values: FloatArray) -> FloatArray:
    """Take away what rounding adds outside [0, 1]; adding 0.0 turns -0.0 into 0.0."""
    return np.clip(values, 0.0, 1.0) + 0.0
