"""Makes sure that advice is possible: in a folder that is bound to its settings, it says where to go."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from xal_ray.config import Config, flatten
from xal_ray.errors import XalRayError

_KEY = re.compile(r"(?<![\w./-])[a-z_]+(?:\.[a-z_0-9]+)*(?![\w/-])")


@contextmanager
def followable(config: Config, where_else: Callable[[], str]) -> Iterator[None]:
    """Let errors out of the block with advice that can be followed.

    Stages do not know which folder they work for. So what they advise to change may be a key that the folder
    is bound to: with another value of it, the same command would be refused there.

    Args:
        config: The settings.
        where_else: How the advice can be followed all the same; empty where the folder is not bound. Called
            once there is an error.
    """
    try:
        yield
    except XalRayError as error:
        bound = bound_keys(error.details["next"] or "", config)
        elsewhere = where_else() if bound else ""
        if not elsewhere:
            raise
        names = f"{', '.join(bound)} belong{'' if len(bound) > 1 else 's'} to what is here"
        raise error.with_next_step(f"{error.details['next']} ({names}: {elsewhere})") from error


def bound_keys(text: str, config: Config) -> list[str]:
    """The keys in a text that results depend on, so that a folder is bound to them; none beside `--out`."""
    if "--out" in text:
        return []
    known = flatten(config.model_dump(mode="json"))
    named = dict.fromkeys(_KEY.findall(text))
    return [key for key in named if key in known and config.has_effect(key)]
