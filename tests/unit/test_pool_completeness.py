import pyarrow as pa
import pytest

from xal_ray.errors import StageError
from xal_ray.pool.completeness import check_complete


def check(manifest, read, left_out=(), reader=None):
    def table(ids):
        return pa.table({"image_id": pa.array(ids, pa.string())})

    readers = pa.array([reader] * len(manifest), pa.string())
    check_complete(table(manifest).append_column("reader", readers), table(read), table(left_out), where="p")


@pytest.mark.parametrize(
    ("manifest", "read", "left_out"),
    [("abc", "abc", ""), ("abc", "ac", "b"), ("abc", "", "abc"), (["a/b", "a/c"], ["a/c", "a/b"], "")],
)
def test_each_row_read_or_in_quarantine_is_whole(manifest, read, left_out):
    check(list(manifest), list(read), list(left_out))


@pytest.mark.parametrize(
    ("read", "left_out", "found"),
    [
        ("ab", "", r"2 images and 0 in quarantine: 1 are missing, 0 are strangers, 0 .* \(c, \.\.\.\)"),
        ("", "", r"3 are missing"),
        ("abcx", "", r"0 are missing, 1 are strangers"),
        ("abc", "x", r"1 are strangers"),
        ("abcc", "", r"1 stand there twice"),
        ("abc", "c", r"1 stand there twice"),
        ("abb", "", r"1 are missing, 0 are strangers, 1 stand there twice"),  # the count alone is right
    ],
)
def test_what_is_missing_is_said(read, left_out, found):
    with pytest.raises(StageError, match=found):
        check(list("abc"), list(read), list(left_out))


def test_a_case_may_become_many_images_or_none_and_not_those_of_another():
    check(["p1", "p2", "p3"], ["p1/z001", "p1/z002"], ["p3"], reader="brats")
    for read, left_out in ((["p1/z1", "p4/z1"], []), (["p1/z1", "p1/z1"], []), (["p1/z1"], ["p1"])):
        with pytest.raises(StageError, match=r"1 are strangers|1 stand there twice"):
            check(["p1", "p2", "p3"], read, left_out, reader="brats")
