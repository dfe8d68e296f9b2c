"""The storage layer on an S3, with what an S3 refuses."""

import pickle

import pyarrow as pa
import pytest
from botocore.retries.standard import ExponentialBackoff
from s3_proxy import S3Proxy
from s3fs import S3FileSystem

from xal_ray import storage
from xal_ray.errors import StorageError
from xal_ray.places import paths, place
from xal_ray.pool.schema import open_pool

pytestmark = pytest.mark.slow


@pytest.fixture
def proxy(s3_server, s3_bucket, monkeypatch):
    """All requests of this process go through it."""
    proxy = S3Proxy(s3_server)
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
    paths._file_system.cache_clear()
    yield proxy
    paths._file_system.cache_clear()
    proxy.close()


@pytest.fixture
def impatient(monkeypatch):
    """Nothing is tried again: a test need not wait for minutes."""
    options = {"use_listings_cache": False, "config_kwargs": {"retries": {"max_attempts": 1}}}
    monkeypatch.setitem(paths._OPTIONS, "s3", options)
    monkeypatch.setattr(S3FileSystem, "retries", 1)


def test_files_are_written_read_listed_and_removed(s3_bucket):
    folder = s3_bucket / "a b" / "c[1]"
    storage.write_bytes(folder / "x.bin", b"hello")
    storage.write_json(folder / "y.json", {"b": 1})
    storage.write_bytes(folder / "below" / "z.bin", b"")
    assert (folder / "x.bin").read_bytes() == (folder / "x.bin").open("rb").read() == b"hello"
    assert storage.read_json(pickle.loads(pickle.dumps(folder)) / "y.json") == {"b": 1}
    assert storage.names_in(folder) == ["below", "x.bin", "y.json"]
    assert storage.names_in(folder, ".json") == ["y.json"]
    assert storage.names_in(s3_bucket / "none") == []
    assert storage.names_below(folder) == ["below/z.bin", "x.bin", "y.json"]
    assert storage.existing_files([folder / "x.bin", folder / "no", s3_bucket / "q" / "x.bin"]) == {
        folder / "x.bin"
    }
    assert (folder.exists(), folder.is_dir(), folder.is_file()) == (True, True, False)
    assert (storage.is_empty(folder), storage.is_empty(s3_bucket / "none")) == (False, True)
    assert not storage.is_empty(folder / "x.bin")
    assert storage.sha256_file(folder / "x.bin") == storage.sha256_bytes(b"hello")
    assert storage.read_at_most(folder / "x.bin", 5) == (b"hello", 5)
    assert storage.read_at_most(folder / "x.bin", 4) == (None, 5)
    with pytest.raises(IsADirectoryError):
        storage.read_at_most(folder, 9)
    storage.write_bytes(s3_bucket / "a b" / "kept", b"")
    storage.remove_tree(folder, last="y.json")
    assert storage.names_below(s3_bucket) == ["a b/kept"]


def test_lines_are_appended_and_two_writers_notice_each_other(s3_bucket, monkeypatch):
    path = s3_bucket / "ledger.jsonl"
    storage.append_line(path, "one")
    storage.append_line(path, "two")
    assert path.read_bytes() == b"one\ntwo\n"
    read = path.fs.cat_file

    def overtaken(address, **options):
        data = read(address, **options)
        if not overtakers:
            overtakers.append(True)
            path.fs.pipe_file(address, b"another\n")
        return data

    overtakers = []
    monkeypatch.setattr(path.fs, "cat_file", overtaken)
    with pytest.raises(StorageError, match="another process wrote"):
        storage.append_line(path, "three")
    assert path.read_bytes() == b"another\n"


def test_of_two_who_create_a_file_one_succeeds(s3_bucket, tmp_path):
    for path in (s3_bucket / "lock", tmp_path / "lock"):
        assert storage.exclusive_create(path, b"first")
        assert not storage.exclusive_create(path, b"second")
        assert path.read_bytes() == b"first"


def test_a_row_group_is_read_with_one_request(s3_bucket, proxy):
    count = 4000
    table = pa.table(
        {"image_id": [f"i{n}" for n in range(count)], "x": [n / 7 for n in range(count)], "y": [0.5] * count}
    )
    storage.write_table(s3_bucket / "s" / "0.parquet", table, row_group_size=1000)
    assert storage.read_table(s3_bucket / "s" / "0.parquet").equals(table)
    assert storage.read_table(s3_bucket / "s" / "0.parquet", ["x"]).equals(table.select(["x"]))
    assert storage.read_shards(s3_bucket / "s", table.schema).equals(table)
    proxy.seen.clear()
    groups = list(storage.iter_row_groups(s3_bucket / "s", ["x", "y"]))
    # one listing, the size, the footer, then a range for each of four row groups
    assert proxy.seen == {"LIST": 1, "HEAD": 1, "GET": 1 + 4}
    proxy.seen.clear()
    assert groups[2][1]().to_pylist() == table["image_id"].to_pylist()[2000:3000]
    assert proxy.seen == {"GET": 1}


def test_what_is_damaged_or_missing_is_explained(s3_bucket):
    storage.write_bytes(s3_bucket / "x.parquet", b"PAR1 nothing")
    for columns in (None, ["a"]):
        with pytest.raises(StorageError, match=r"s3://.*x\.parquet"):
            storage.read_table(s3_bucket / "x.parquet", columns)
    with pytest.raises(StorageError, match=r"no\.json"):
        storage.read_json(s3_bucket / "no.json")
    with pytest.raises(StorageError, match="no such bucket"):
        storage.write_bytes(place("s3://no-such-bucket-of-ours/x"), b"")
    (s3_bucket / "x").mkdir(parents=True, exist_ok=True)
    assert not (s3_bucket / "x").exists()


def test_throttling_is_sat_out(s3_bucket, proxy, monkeypatch):
    # The waits between two tries are seconds; how many tries there are is what counts here.
    monkeypatch.setattr(ExponentialBackoff, "delay_amount", lambda *_: 0.01)
    storage.write_bytes(s3_bucket / "f" / "x", b"old")
    for kind in ("PUT", "GET", "HEAD", "LIST"):
        proxy.refuse(kind, 7, 503, "SlowDown")
    storage.write_bytes(s3_bucket / "f" / "x", b"new")
    assert storage.names_in(s3_bucket / "f") == ["x"]
    assert (s3_bucket / "f" / "x").exists()
    assert (s3_bucket / "f" / "x").read_bytes() == b"new"
    assert proxy.refused == dict.fromkeys(("PUT", "GET", "HEAD", "LIST"), 7)


REFUSALS = [
    (507, "XMinioStorageFull", "full"),
    (403, "QuotaExceeded", "full"),
    (403, "AccessDenied", "does not allow it"),
    (503, "SlowDown", "fewer requests"),
    (500, "InternalError", "gave an error"),
]


def test_refusals_are_explained(s3_bucket, proxy, impatient):
    storage.write_table(s3_bucket / "f" / "x.parquet", pa.table({"a": list(range(9))}))
    attempts = [
        lambda: storage.write_bytes(s3_bucket / "f" / "y", b"new"),
        lambda: storage.read_table(s3_bucket / "f" / "x.parquet", ["a"]),
        lambda: (s3_bucket / "f" / "x.parquet").read_bytes(),
    ]
    for status, code, what in REFUSALS:
        for kind in ("PUT", "GET"):
            proxy.refuse(kind, 99, status, code)
        for attempt in attempts:
            with pytest.raises(StorageError, match=what) as caught:
                attempt()
            text = str(caught.value)
            assert f"s3://{s3_bucket.name}/f" in text
            assert code in text
            assert "next:" in text
            assert "testing" not in text  # the key
            assert "Signature" not in text
    proxy.rules.clear()
    assert storage.names_in(s3_bucket / "f") == ["x.parquet"]


def test_a_folder_that_may_not_be_read_is_not_taken_for_an_empty_one(s3_bucket, proxy, impatient):
    storage.write_bytes(s3_bucket / "pool" / "card.json", b"{}")
    for kind in ("HEAD", "LIST"):
        proxy.refuse(kind, 99, 403, "AccessDenied")
    for attempt in (storage.names_in, storage.is_empty, open_pool):
        with pytest.raises(StorageError, match="does not allow it"):
            attempt(s3_bucket / "pool")


def test_missing_credentials_and_an_endpoint_that_is_not_there_are_explained(
    s3_bucket, proxy, impatient, monkeypatch
):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    paths._file_system.cache_clear()
    with pytest.raises(StorageError, match="no credentials"):
        storage.write_bytes(s3_bucket / "x", b"")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    paths._file_system.cache_clear()
    with pytest.raises(StorageError, match="can't be reached"):
        (s3_bucket / "x").exists()
