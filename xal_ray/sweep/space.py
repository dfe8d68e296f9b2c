"""Says what a sweep tries: texts like `select.weight=0:1:0.1` to values, and which keys may be swept."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import product

import yaml

from xal_ray.errors import ConfigError
from xal_ray.sweep.arms import Value

MAX_VALUES = 10_000  # of one parameter; more is a slip of the keyboard
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_INTEGER = re.compile(r"[+-]?\d+")
_FORMS = "'0:1:0.1' (low:high:step), 'dual,margin' (a list), or, to draw from, '0:1' or '1e-4:1e-1:log'"

_NOT_SWEPT = {
    "name": "it is a name; set it once",
    "seed": "give --seeds: every arm runs with the same seeds",
    "ray": "resources change no result",
    "score.max_error_fraction": "a limit changes no result",
    "sweep": "a sweep does not sweep itself",
    "labels": "a sweep takes its labels from the oracle",
    "pool.path": "arms are compared on the same data",
    "pool.source": "arms are compared on the same data",
    "pool.splits": "arms are compared on the same data",
    "pool.classes": "arms are compared on the same data",
    "pool.group_by": "arms are compared on the same data",
}


@dataclass(frozen=True)
class Choices:
    """Values to go through.

    Attributes:
        values: In their order.
        step: Between neighbours, where they were given as `low:high:step`.
    """

    values: tuple[Value, ...]
    step: int | float | None = None


@dataclass(frozen=True)
class Interval:
    """Numbers to draw from, both ends included: uniformly, or uniformly in the logarithm."""

    low: int | float
    high: int | float
    log: bool = False

    @property
    def is_whole(self) -> bool:
        """Return whether integers are drawn."""
        return isinstance(self.low, int) and isinstance(self.high, int)


Space = Choices | Interval
Spec = str | int | float | bool | Sequence[Value]


def parse_params(params: Mapping[str, Spec]) -> dict[str, Space]:
    """Read the parameters of a sweep.

    Args:
        params: Configuration key to a text (`0:1:0.1`, `0:1`, `1e-4:1e-1:log`, `dual,margin`) or a list.

    Raises:
        ConfigError: A key can't be swept, or what is tried can't be read.
    """
    if not params:
        raise ConfigError(
            "the sweep has nothing to try",
            where="sweep.params",
            next_step="--param select.weight=0:1:0.1 --param select.strategy=dual,margin",
        )
    for key in params:
        check_key(key)
    return {key: parse_space(key, spec) for key, spec in params.items()}


def check_key(key: str) -> None:
    """Refuse keys that have nothing to do with what arms differ in.

    Raises:
        ConfigError: It is one.
    """
    parts = key.split(".")
    for length in range(1, len(parts) + 1):
        reason = _NOT_SWEPT.get(".".join(parts[:length]))
        if reason is not None:
            raise ConfigError(f"'{key}' can't be swept: {reason}", where=f"sweep.params, {key}")


def parse_space(key: str, spec: Spec) -> Space:
    """Read what is tried of one key.

    Raises:
        ConfigError: It can't be read, or is empty.
    """
    if isinstance(spec, str):
        return _parse_text(key, spec.strip())
    if isinstance(spec, (bool, int, float)):
        # YAML itself reads 0:1:0.1 without quotes as a number: hours, minutes and seconds.
        raise _unreadable(
            key, str(spec), "a single value is nothing to compare; a range in YAML needs quotes: '0:1:0.1'"
        )
    return Choices(_checked_values(key, spec))


def parse_pairs(option: str, texts: Iterable[str]) -> dict[str, str]:
    """Read `KEY=SPEC` texts of an option of the command line.

    Raises:
        ConfigError: One has another form, or a key stands twice.
    """
    pairs: dict[str, str] = {}
    for text in texts:
        key, equals, spec = (part.strip() for part in text.partition("="))
        if not equals or not key:
            raise ConfigError(f"a {option} is not of the form KEY=VALUE", found=text)
        if key in pairs:
            raise ConfigError(f"{option} names '{key}' twice", found=text)
        pairs[key] = spec
    return pairs


def grid(spaces: Mapping[str, Space]) -> Iterator[dict[str, Value]]:
    """Yield all combinations; the last key changes fastest.

    Raises:
        ConfigError: A parameter has no end of values.
    """
    columns = []
    for key, space in spaces.items():
        if isinstance(space, Interval):
            low, high = f"{space.low:g}", f"{space.high:g}"
            raise ConfigError(
                f"a grid can't go through all values of '{key}'",
                found=f"{low}:{high}",
                where="sweep.params",
                next_step=f"give a step, as in {key}={low}:{high}:STEP, or sweep.search=random or optuna",
            )
        columns.append(space.values)
    for values in product(*columns):
        yield dict(zip(spaces, values, strict=True))


def tidy(value: float, space: Space) -> int | float:
    """Return a drawn number with six significant digits, as it is shown; it stays within the space."""
    rounded = float(f"{value:.6g}")
    if isinstance(space, Interval):
        rounded = min(max(rounded, space.low), space.high)
        return int(rounded) if space.is_whole else float(rounded)
    return int(rounded) if all(isinstance(known, int) for known in space.values) else rounded


def scalar(text: str) -> Value | None:
    """Read one value as the configuration would; None where it is no single value."""
    if _NUMBER.fullmatch(text):
        return int(text) if _INTEGER.fullmatch(text) else float(text)
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return None
    return value if isinstance(value, (str, bool, int, float)) else None


def _parse_text(key: str, text: str) -> Space:
    if text.startswith("["):
        try:
            items = yaml.safe_load(text)
        except yaml.YAMLError:
            raise _unreadable(key, text) from None
        return Choices(_checked_values(key, items if isinstance(items, list) else []))
    parts = [part.strip() for part in text.split(":")]
    if len(parts) > 1 and "," not in text and _NUMBER.fullmatch(parts[0]):
        return _parse_range(key, text, parts)
    return Choices(_checked_values(key, [scalar(part.strip()) for part in text.split(",")], text))


def _parse_range(key: str, text: str, parts: Sequence[str]) -> Space:
    log = len(parts) == 3 and parts[2] == "log"
    numbers = parts[:2] if log else parts
    if len(parts) > 3 or not all(_NUMBER.fullmatch(part) for part in numbers):
        raise _unreadable(key, text)
    low, high = (_number(part) for part in parts[:2])
    if low >= high:
        raise _unreadable(key, text, "the lower end comes first, and the ends differ")
    if log and low <= 0:
        raise _unreadable(key, text, "a logarithm needs a lower end above 0")
    return Interval(low, high, log) if log or len(parts) == 2 else _steps(key, text, parts)


def _steps(key: str, text: str, parts: Sequence[str]) -> Choices:
    """`low:high:step`, both ends included. In decimals, so that 0:1:0.1 has 0.3, not 0.30000000000000004."""
    low, high, step = (Decimal(part) for part in parts)
    if step <= 0:
        raise _unreadable(key, text, "the step is above 0")
    count = int((high - low) / step) + 1
    if count > MAX_VALUES:
        raise _unreadable(key, text, f"these are {count} values, and {MAX_VALUES} are allowed")
    whole = all(_INTEGER.fullmatch(part) for part in parts)
    values = [low + number * step for number in range(count)]
    return Choices(tuple(int(value) if whole else float(value) for value in values), _number(parts[2]))


def _number(text: str) -> int | float:
    return int(text) if _INTEGER.fullmatch(text) else float(text)


def _checked_values(key: str, values: Sequence[Value | None], text: str | None = None) -> tuple[Value, ...]:
    found = text if text is not None else str(list(values))
    if not values or len(values) > MAX_VALUES:
        raise _unreadable(key, found)
    for value in values:
        if not isinstance(value, (str, bool, int, float)) or value == "":
            raise _unreadable(key, found, "each entry is one text, number, true or false")
    return tuple(value for value in values if value is not None)


def _unreadable(key: str, text: str, reason: str | None = None) -> ConfigError:
    return ConfigError(
        f"what to try of '{key}' can't be read" + (f": {reason}" if reason else ""),
        expected=_FORMS,
        found=text,
        where="sweep.params",
    )
