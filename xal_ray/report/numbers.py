"""Says how numbers are written on pages."""

from __future__ import annotations


def format_number(value: float | None, digits: int = 3) -> str:
    """Return a number with a fixed count of decimals and a true minus sign; a dash where there is none."""
    return "–" if value is None else f"{value:.{digits}f}".replace("-", "−")  # noqa: RUF001


def signed(value: float, digits: int = 3) -> str:
    """Return a difference, with its sign."""
    return ("+" if value >= 0.0 else "") + format_number(value, digits)


def p_words(p: float) -> str:
    """`p = .41`, with three digits below a tenth; `p < .001`."""
    if p < 0.001:
        return "p < .001"
    return f"p = {p:.{2 if p >= 0.1 else 3}f}".replace("= 0.", "= .")
