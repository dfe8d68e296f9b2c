"""Tables that people write: one reader for manifests, label files, lists of ids, and the CSVs of sets."""

from xal_ray.tables.header import TableHeader, key_of
from xal_ray.tables.reading import Cells, Written, open_written

__all__ = ["Cells", "TableHeader", "Written", "key_of", "open_written"]
