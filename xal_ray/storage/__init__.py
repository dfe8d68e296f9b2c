"""Files: atomic writes, Parquet, JSON, hashes and locks, on a disk or in an object store.

A file that exists is whole. On a disk it is written beside its place and renamed; an object store shows an
object only when all of it has arrived, so there it is put in one piece.
"""

from xal_ray.storage.files import (
    TEMPORARY_SUFFIX,
    append_line,
    digest,
    disk_errors,
    exclusive_create,
    existing_files,
    is_empty,
    names_below,
    names_in,
    read_at_most,
    read_json,
    refuse_no_folder,
    remove_leftovers,
    remove_tree,
    sha256_bytes,
    sha256_file,
    write_bytes,
    write_json,
)
from xal_ray.storage.tables import (
    Footer,
    iter_row_groups,
    open_parquet,
    read_footer,
    read_shards,
    read_table,
    write_table,
)

__all__ = [
    "TEMPORARY_SUFFIX",
    "Footer",
    "append_line",
    "digest",
    "disk_errors",
    "exclusive_create",
    "existing_files",
    "is_empty",
    "iter_row_groups",
    "names_below",
    "names_in",
    "open_parquet",
    "read_at_most",
    "read_footer",
    "read_json",
    "read_shards",
    "read_table",
    "refuse_no_folder",
    "remove_leftovers",
    "remove_tree",
    "sha256_bytes",
    "sha256_file",
    "write_bytes",
    "write_json",
    "write_table",
]
