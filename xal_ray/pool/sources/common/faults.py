"""Notes what is wrong with annotations of images: a bad shape costs that shape, or at most its image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from xal_ray.pool.manifest import Row, manifest_of
from xal_ray.pool.sources.common.listing import Listing, Refused
from xal_ray.pool.warnings_table import Warned
from xal_ray.roi import Sound


@dataclass
class Faults:
    """Shapes that a source dropped, and the images that it leaves out for them.

    Attributes:
        warned: One for each image and kind of fault.
        refused: Images of which nothing is left.
    """

    warned: list[Warned] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)

    def drop(self, detail: str, image_id: str | None = None, count: int = 1) -> None:
        """Note shapes that are not used; `detail` says what is wrong with them, and where."""
        self.warned += [Warned("shape_dropped", detail, image_id)] * count

    def drop_all(self, sound: Sound, image_id: str) -> None:
        """Note all that was dropped of an image's shapes."""
        for fault, count in sorted(sound.dropped.items()):
            self.drop(fault, image_id, count)

    def box_instead(self, image_id: str, detail: str) -> None:
        """Note a shape in whose place its box is used."""
        self.warned.append(Warned("box_instead", detail, image_id))

    def refuse(self, image_id: str, uri: str, detail: str, code: str = "roi_mismatch") -> None:
        """Leave out an image."""
        self.refused.append(Refused(image_id, uri, code, detail))

    def counts(self) -> Counter[str]:
        """Images that are left out, by reason."""
        return Counter(each.error_code for each in self.refused)

    def listing(
        self,
        rows: Sequence[Row],
        notes: Iterable[str],
        excluded: Mapping[str, int],
        *,
        classes: tuple[str, ...] | None = None,
        data_set: str | None = None,
    ) -> Listing:
        """Make what a source yields, with these faults; the arguments are as `Listing` has them."""
        return Listing(
            manifest_of(rows),
            classes,
            tuple(notes),
            dict(excluded),
            self.refused,
            self.warned,
            data_set=data_set,
        )
