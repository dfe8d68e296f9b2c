"""Tables that people write: every encoding, delimiter and habit of the programs that write them."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from xal_ray.errors import LabelError, SourceError
from xal_ray.tables import TableHeader, open_written
from xal_ray.tables.decoding import decoded

NAMES = ("image_id", "label", "group_id")
PLAIN = "image_id,label,group_id\na,Müller,7\nb,,007\n"
PLAIN_CELLS = (["a", "b"], ["Müller", None], ["7", "007"])


def _open(folder, content: str | bytes, name="t.csv"):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return open_written(path, "the table", SourceError, NAMES)


def _cells(folder, content: str | bytes, name="t.csv"):
    table = _open(folder, content, name)
    read = table.read([at for wanted in NAMES if (at := table.header.find(wanted)) is not None])
    return read.columns, read.rows, (*table.notes, *read.notes)


def _refused(folder, content: str | bytes, name="t.csv") -> SourceError:
    with pytest.raises(SourceError) as caught:
        _cells(folder, content, name)
    assert caught.value.details["next"], "every refusal says what to do next"
    assert "Roe" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "cp1252", "latin-1"]
)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_encodings_and_line_ends(tmp_path, encoding, end):
    columns, rows, notes = _cells(tmp_path, PLAIN.replace("\n", end).encode(encoding))
    assert columns == PLAIN_CELLS
    assert rows == [2, 3]
    assert any("Windows-1252" in note for note in notes) == (encoding in ("cp1252", "latin-1"))


def test_a_mark_of_utf_16_in_both_orders(tmp_path):
    for order in ("le", "be"):
        content = ("\ufeff" + PLAIN).encode(f"utf-16-{order}")
        assert _cells(tmp_path, content)[0] == PLAIN_CELLS


def test_bytes_of_no_text_are_refused(tmp_path):
    for content in (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", b"image_id,label\na\0\1\n", b"\xff\xfea"):
        assert "can't be read" in str(_refused(tmp_path, content))
    assert decoded(b"") == ("", None)


@pytest.mark.parametrize("mark", [",", ";", "\t", "|"])
@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.txt", "T.CSV"])
def test_delimiters_whatever_the_file_is_called(tmp_path, mark, name):
    columns, _, _ = _cells(tmp_path, PLAIN.replace(",", mark), name)
    assert columns == PLAIN_CELLS


@pytest.mark.parametrize("line", ["sep=;", '"sep=;"', "SEP=;"])
def test_excels_line_with_the_delimiter(tmp_path, line):
    columns, rows, _ = _cells(tmp_path, f"{line}\r\n" + PLAIN.replace(",", ";").replace("\n", "\r\n"))
    assert columns == PLAIN_CELLS
    assert rows == [3, 4]


def test_a_delimiter_in_a_quoted_name_is_none(tmp_path):
    columns, _, _ = _cells(tmp_path, '"x;y;z;w",image_id,label\n1,a,"b;c"\n')
    assert columns == (["a"], ["b;c"])


def test_what_stands_above_the_header_and_between_rows(tmp_path):
    text = "\n# from the ward\n\nimage_id,label\n\na,x\n,,,\n# that was one, b\n#b\nb,y\n , \n\n"
    table = _open(tmp_path, text.replace("# that was one, b\n", ""))
    read = table.read([0, 1])
    assert read.columns == (["a", "b"], ["x", "y"])
    assert read.rows == [6, 9]
    assert read.notes == ("1 rows that begin with # are passed by",)
    assert _open(tmp_path, "#image_id,label\na,x\n").header.names == ("image_id", "label")


def test_empty_cells_behind_the_last_column_are_a_spreadsheets(tmp_path):
    columns, _, notes = _cells(tmp_path, "image_id,label\na,x,,\nb,y,\n,,,,\n")
    assert columns == (["a", "b"], ["x", "y"])
    assert notes == ()


def test_columns_without_a_name_behind_the_last_one_hold_nothing(tmp_path):
    columns, _, notes = _cells(tmp_path, "image_id,label,,\na,x\nb,y,,\n")
    assert columns == (["a", "b"], ["x", "y"])
    assert notes == ()
    error = _refused(tmp_path, "image_id,label,,\na,x\nb,glioma,Jane Roe,\n")
    assert error.details["found"] == "Expected 2 columns, got 4 in row 3"
    columns, _, _ = _cells(tmp_path, ",image_id,label\n0,a,x\n1,b,y\n")  # pandas' index in front
    assert columns == (["a", "b"], ["x", "y"])


def test_a_cell_too_many_is_refused_and_cells_too_few_are_told(tmp_path):
    error = _refused(tmp_path, "image_id,label\na,x\n\nb,glioma,Jane Roe\n")
    assert error.details["found"] == "Expected 2 columns, got 3 in row 4"
    columns, _, notes = _cells(tmp_path, "image_id,label,group_id\na,x,1\nb\nc,y\n")
    assert columns == (["a", "b", "c"], ["x", None, "y"], ["1", None, None])
    assert notes[0].startswith("2 rows end before the last column (the first: row 3)")


def test_quoted_line_ends_count_as_one_row(tmp_path):
    table = _open(tmp_path, 'image_id,label\na,"x\ny"\nb,z\n')
    read = table.read([0, 1])
    assert (read.rows, read.lines) == ([2, 3], [2, 4])
    assert read.columns[1] == ["x\ny", "z"]


def test_a_quote_that_is_not_closed_does_not_swallow_the_rest(tmp_path):
    error = _refused(tmp_path, 'image_id,label\na,x\nb,"Roe\nc,y\n')
    assert "row 2" in error.details["found"]


def test_zeros_that_were_kept_from_excel(tmp_path):
    columns, _, _ = _cells(tmp_path, 'image_id,group_id\n="0012","=""007"""\n')
    assert columns == (["0012"], ["007"])


def test_cells_are_as_long_as_they_are(tmp_path):
    columns, _, _ = _cells(tmp_path, "image_id,label\na," + "x" * 300_000 + "\n")
    assert len(columns[1][0]) == 300_000


def test_other_kinds_of_files_say_what_to_do(tmp_path):
    for name, content, advice in (
        ("t.xlsx", b"PK\x03\x04", "CSV UTF-8"),
        ("t.xls", b"", "CSV UTF-8"),
        ("t.ods", b"", "CSV UTF-8"),
        ("t.csv", b"PK\x03\x04", "CSV UTF-8"),
        ("t.csv", b"\xd0\xcf\x11\xe0", "CSV UTF-8"),
        ("t.csv", b"<html><table>", "CSV UTF-8"),
        ("t.csv.gz", b"", "unpack"),
        ("t.csv", b"\x1f\x8b", "unpack"),
        ("t.json", b"{}", "export it as CSV"),
        ("t.docx", b"", "name it so"),
    ):
        assert advice in _refused(tmp_path, content, name).details["next"], name
    with pytest.raises(LabelError, match="No such file"):
        open_written(tmp_path / "none.csv", "the labels", LabelError, NAMES)


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pa.array([1, 0, None], pa.int8()), ["1", "0", None]),
        (pa.array([1.0, 0.0, float("nan")]), ["1", "0", None]),
        (pa.array([1.5, None, 2.0]), ["1.5", None, "2"]),
        (pa.array([True, False, None]), ["true", "false", None]),
        (pa.array([" x ", "", None]), ["x", None, None]),
        (pa.array(["x", None, "x"]).dictionary_encode(), ["x", None, "x"]),
        (pa.array([7, None, 8]).dictionary_encode(), ["7", None, "8"]),
        (pa.array([b"x", None, b"y"]), ["x", None, "y"]),
        (pa.array(["x", None, "y"], pa.large_string()), ["x", None, "y"]),
        (pa.nulls(3), [None] * 3),
    ],
)
def test_types_of_parquet(tmp_path, column, expected):
    pq.write_table(pa.table({" image_id ": ["a", "b", "c"], "Label": column}), tmp_path / "t.parquet")
    for name in ("t.parquet", "t.csv"):  # known by its content, too
        columns, rows, _ = _cells(tmp_path, (tmp_path / "t.parquet").read_bytes(), name)
        assert columns == (["a", "b", "c"], expected)
        assert rows == [1, 2, 3]


def test_parquet_that_holds_no_text_in_a_cell_is_refused(tmp_path):
    for column in (pa.array([["x"]]), pa.array([{"a": 1}]), pa.array([b"\xff\xfe"])):
        pq.write_table(pa.table({"image_id": ["a"], "label": column}), tmp_path / "t.parquet")
        error = _refused(tmp_path, (tmp_path / "t.parquet").read_bytes(), "t.parquet")
        assert "'label' holds something other" in error.what
    assert "damaged" not in str(_refused(tmp_path, b"PAR1 Jane Roe", "t.parquet"))


@pytest.mark.parametrize(
    "spelled", ["label", " label ", "Label", "LABEL", "La bel", "l-a-b-e-l", "\uff4cabel"]
)
def test_a_name_is_found_however_it_is_spelled(spelled):
    assert TableHeader("t.csv", ("id", spelled.strip()), SourceError).find("label") == 1


def test_a_name_that_stands_twice_is_refused_unless_one_is_exact():
    for names in (("label", "label"), ("Label", "LABEL")):
        with pytest.raises(SourceError, match="stands twice") as caught:
            TableHeader("t.csv", names, SourceError).find("label")
        assert "rename or remove" in caught.value.details["next"]
    assert TableHeader("t.csv", ("Label", "label"), SourceError).find("label") == 1


@pytest.mark.parametrize("near", ["lable", "labels", "labl", "label_name", "Lebel", "label_path"])
def test_a_near_miss(near):
    assert TableHeader("t.csv", ("id", near), SourceError).nearest("label", {0}) == near


@pytest.mark.parametrize("other", ["table", "lab", "lesion", "label_noise_rate", "age"])
def test_no_near_miss(other):
    assert TableHeader("t.csv", ("id", other), SourceError).nearest("label", {0}) is None


def test_columns_that_hold_given_words(tmp_path):
    table = _open(tmp_path, "image_id,choice,other,empty\na,cat,cat,\nb,,bird,\n")
    assert table.columns_of({"cat", "dog"}, {0}) == ["choice"]
