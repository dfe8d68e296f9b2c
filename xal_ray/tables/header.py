"""A table's header: columns are found by their name, however it is spelled."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from xal_ray.errors import InputError
from xal_ray.nearest_name import nearest_name

_NEAR = 0.8  # of difflib: a swapped or a missing letter of five
# What people hang on a name without meaning another one: `mask_path`, `labels`, `image_file`.
_ENDINGS = frozenset({"s", "es", "path", "paths", "file", "files", "filename", "name", "names", "uri", "url"})
_CORNERS = (
    ("xmin", "ymin", "xmax", "ymax"),
    ("x0", "y0", "x1", "y1"),
    ("x1", "y1", "x2", "y2"),
    ("left", "top", "right", "bottom"),
)
_OF_BOXES = ("", "box", "bbox", "bndbox", "roi")  # before them
_SHOWN = 8


def key_of(name: str) -> str:
    """A name without case, spaces, marks and Unicode variants: `Group ID`, `group_id`, `GROUP-ID` are one."""
    folded = unicodedata.normalize("NFKC", name).casefold()
    return "".join(character for character in folded if character.isalnum())


@dataclass(frozen=True)
class TableHeader:
    """The names of a table's columns.

    Attributes:
        where: The file, for messages.
        names: As they are written, without surrounding spaces.
        error: What is raised.
    """

    where: str
    names: tuple[str, ...]
    error: type[InputError]

    def find(self, name: str) -> int | None:
        """The position of a column; a name that differs in case, spaces and marks only is the same one.

        Raises:
            InputError: Several are as good.
        """
        exact = [position for position, found in enumerate(self.names) if found == name]
        if len(exact) == 1:
            return exact[0]
        alike = exact or [at for at, found in enumerate(self.names) if key_of(found) == key_of(name)]
        if len(alike) > 1:
            several = [self.names[position] for position in alike]
            raise self.error(
                f"the column '{name}' stands twice",
                found=quoted(several),
                where=self.where,
                next_step="rename or remove all of them but one",
            )
        return alike[0] if alike else None

    def nearest(self, name: str, taken: Collection[int], synonyms: Sequence[str] = ()) -> str | None:
        """Return the column that may have been meant where there is none of this name.

        Args:
            name: The name.
            taken: Positions of columns that have their use already.
            synonyms: Other words for it, the likeliest first.
        """
        used = {
            key_of(self.names[at]) for at in taken
        }  # a second spelling of one of these is no other column
        keys = [(key_of(found), found) for at, found in enumerate(self.names) if at not in taken]
        free = {key: found for key, found in keys if key and key not in used}
        key = key_of(name)
        near = nearest_name(key, free, cutoff=_NEAR)
        longer = [other for other in free if other.startswith(key) and other.removeprefix(key) in _ENDINGS]
        other_words = [key_of(word) for word in synonyms if key_of(word) in free]
        meant = [*([near] if near else []), *longer, *other_words]
        return free[meant[0]] if meant else None

    def corners(self) -> tuple[str, ...]:
        """Four columns that may be corners of boxes, by names that many programs give them; or none."""
        free = {key_of(name): name for name in self.names}
        kinds = ([before + key for key in keys] for keys in _CORNERS for before in _OF_BOXES)
        return next((tuple(free[key] for key in keys) for keys in kinds if set(keys) <= set(free)), ())

    def unread(self, read: Collection[int]) -> str | None:
        """Return a note on the columns that nothing reads; None where there are none."""
        names = [name for at, name in enumerate(self.names) if name and at not in read]
        names = [name for name in names if not name.startswith("__index_level_")]  # pandas' own
        return f"columns that nothing reads: {quoted(names)}" if names else None

    def shown(self) -> str:
        """Return the names, for messages."""
        return ", ".join(name for name in self.names if name)[:500] or "no header"


def quoted(names: Sequence[str]) -> str:
    """'a', 'b' and 3 more."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(f"'{name[:60]}'" for name in names[:_SHOWN]) + more
