"""Headers of DICOM files held against what the pixels, the tables and the codestream say."""

import itertools
import struct

import image_files as make
import numpy as np
import pytest

from xal_ray.config import Dicom, Limits
from xal_ray.images import ImageError, decode_image, decode_mask
from xal_ray.images.dicom.bits import counted_bits, is_twos_complement

pytest.importorskip("pydicom")

LIMITS = Limits()
RAMP = np.arange(4096, dtype=np.uint16).reshape(64, 64)
NATIVE = [make.EXPLICIT, make.IMPLICIT, make.BIG, make.DEFLATED]
EXACT = [*NATIVE, make.RLE, make.J2K, make.JPEG_LS, make.JPEG_LOSSLESS]


def _decoded(tmp_path, data, **options):
    path = tmp_path / "a.dcm"
    path.write_bytes(data)
    return decode_image(path, LIMITS, **options)


def _pixels(tmp_path, data, **options):
    return _decoded(tmp_path, data, **options).pixels


def _code(tmp_path, data):
    with pytest.raises(ImageError) as caught:
        _pixels(tmp_path, data)
    return caught.value.code


def _scaled(values, low, high):
    return np.floor(np.clip((values.astype(float) - low) / (high - low), 0, 1) * 255 + 0.5).astype(np.uint8)


# --- one picture in all syntaxes


def _picture(bits, signed):
    rows, columns = np.indices((48, 40))
    share = 0.5 + 0.3 * np.sin(rows / 7) + 0.2 * np.cos(columns / 5)
    values = np.rint(share * (2**bits - 1)).astype(np.int64) - (2 ** (bits - 1) if signed else 0)
    return values.astype(f"{'i' if signed else 'u'}{1 if bits <= 8 else 2}")


@pytest.mark.parametrize("syntax", EXACT)
@pytest.mark.parametrize("bits", [8, 10, 12, 16])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_one_picture_in_all_syntaxes_gives_the_same_greys(tmp_path, syntax, bits, signed, photometric):
    values = _picture(bits, signed)
    window = {"center": 0 if signed else 2 ** (bits - 1), "width": 2**bits, "function": "LINEAR_EXACT"}
    expected = _scaled(values, window["center"] - 2 ** (bits - 1), window["center"] + 2 ** (bits - 1))
    ours = _pixels(tmp_path, make.dicom(values, syntax, stored=bits, photometric=photometric, **window))
    if photometric == "MONOCHROME1":
        turned = 1 - (values.astype(float) - window["center"] + 2 ** (bits - 1)) / 2**bits
        expected = np.floor(turned * 255 + 0.5).astype(np.uint8)
    np.testing.assert_array_equal(ours, expected)


@pytest.mark.parametrize("syntax", EXACT)
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("window", ["header", "range"])
def test_bits_above_those_that_count_are_cleared_after_every_decoder(tmp_path, syntax, signed, window):
    values = _picture(12, signed)
    words = (values.view(np.uint16) & 0x0FFF) | np.where(np.indices(values.shape)[0] > 20, 0xA000, 0).astype(
        np.uint16
    )
    words = words.view(values.dtype)
    encoded = None if syntax in NATIVE else [make.compress(words, syntax, 16)]
    known = {"center": 0 if signed else 2048, "width": 4096, "function": "LINEAR_EXACT", "stored": 12}
    options = {"dicom": Dicom(window=window)}
    clean = _decoded(tmp_path, make.dicom(values, **known), **options)
    ours = _decoded(tmp_path, make.dicom(words, syntax, encoded=encoded, **known), **options)
    np.testing.assert_array_equal(ours.pixels, clean.pixels)
    assert (clean.remarks, ours.remarks) == ((), ("high_bits",))
    np.testing.assert_array_equal(decode_mask(tmp_path / "a.dcm", LIMITS), values != 0)


@pytest.mark.parametrize("high", [0, 0xA000])
def test_the_halved_picture_is_that_of_the_bits_that_count(tmp_path, high):
    rows, columns = np.indices((256, 256))
    values = (2048 + 900 * np.sin(rows / 31) + 900 * np.cos(columns / 29)).astype(np.uint16)
    words = values | np.where((rows // 3 + columns) % 2 > 0, high, 0).astype(np.uint16)
    window = {"center": 2048, "width": 4096, "stored": 12}
    encoded = [make.compress(words, make.J2K, 16 if high else 12)]
    ours = _pixels(tmp_path, make.dicom(words, make.J2K, encoded=encoded, **window), at_least=64)
    assert ours.shape[0] == (256 if high else 65)
    if high:
        np.testing.assert_array_equal(ours, _pixels(tmp_path, make.dicom(values, **window)))


@pytest.mark.parametrize("syntax", EXACT[len(NATIVE) :])
@pytest.mark.parametrize("signed", [False, True])
def test_the_codestream_says_how_many_bits_there_are(tmp_path, syntax, signed):
    """A header that says 16, 12 or (less than there are) 10, above a codestream of 12."""
    values = _picture(12, signed)
    window = {"center": 0 if signed else 2048, "width": 4096, "function": "LINEAR_EXACT"}
    expected = _pixels(tmp_path, make.dicom(values, stored=12, **window))
    # RLE has no depth of its own, and GDCM writes lossless JPEG of 16 bits: there the header decides.
    for stored in (16, 12, 10) if syntax in (make.J2K, make.JPEG_LS) else (16, 12):
        encoded = [make.compress(values, syntax, 12)]
        ours = _pixels(tmp_path, make.dicom(values, syntax, encoded=encoded, stored=stored, **window))
        np.testing.assert_array_equal(ours, expected, err_msg=str(stored))


def test_what_loss_has_made_too_large_is_cut_off_not_wrapped():
    values = np.array([[4090, 4100], [0, 12]], dtype=np.uint16)
    np.testing.assert_array_equal(
        counted_bits(values, 12, signed=False, exact=False)[0], [[4090, 4095], [0, 12]]
    )
    wrapped, foreign = counted_bits(values, 12, signed=False, exact=True)
    np.testing.assert_array_equal(wrapped, [[4090, 4], [0, 12]])
    assert foreign


@pytest.mark.parametrize("syntax", EXACT)
def test_padding_may_need_the_bits_that_do_not_count(tmp_path, syntax):
    values = RAMP[16:].copy()
    values[:5] = 63536  # -2000 of 16 bits, in a file of 12
    encoded = None if syntax in NATIVE else [make.compress(values, syntax, 16)]
    ours = _decoded(tmp_path, make.dicom(values, syntax, encoded=encoded, stored=12, padding=63536))
    assert (ours.pixels[:5] == 0).all()
    np.testing.assert_array_equal(ours.pixels[5:], _scaled(values[5:], values[5:].min(), 4095))
    assert ours.remarks == ()


# --- the sign of a codestream


@pytest.mark.parametrize("bits", [12, 16])
def test_a_signed_codestream_is_signed_whatever_the_header_says(tmp_path, bits):
    values = _picture(bits, signed=True)
    encoded = [make.compress(values, make.J2K, bits)]
    for known in ({"center": 0, "width": 2**bits}, {}):
        expected = _pixels(tmp_path, make.dicom(values, stored=bits, **known))
        data = make.dicom(values, make.J2K, encoded=encoded, stored=bits, signed=0, **known)
        np.testing.assert_array_equal(_pixels(tmp_path, data), expected)
        np.testing.assert_array_equal(_pixels(tmp_path, data, at_least=8), expected)


@pytest.mark.parametrize("bits", [12, 16])
def test_an_unsigned_codestream_under_a_signed_header_is_read_as_its_picture_tells(tmp_path, bits):
    window = {"width": 2**bits, "function": "LINEAR_EXACT", "stored": bits, "signed": 1}
    truly = _picture(bits, signed=False)
    encoded = [make.compress(truly, make.J2K, bits)]
    ours = _pixels(tmp_path, make.dicom(truly, make.J2K, encoded=encoded, center=2 ** (bits - 1), **window))
    np.testing.assert_array_equal(ours, _scaled(truly, 0, 2**bits))
    # Two's complement in the guise of large numbers, as some writers make it.
    signed = _picture(bits, signed=True)
    guise = signed.view(np.uint16) & (2**bits - 1)
    encoded = [make.compress(guise, make.J2K, bits)]
    ours = _pixels(tmp_path, make.dicom(guise, make.J2K, encoded=encoded, center=0, **window))
    np.testing.assert_array_equal(ours, _scaled(signed, -(2 ** (bits - 1)), 2 ** (bits - 1)))


def test_a_picture_that_does_not_tell_its_sign_is_refused(tmp_path):
    noise = np.random.default_rng(0).integers(0, 4096, (64, 64)).astype(np.uint16)
    encoded = [make.compress(noise, make.J2K, 12)]
    assert (
        _code(tmp_path, make.dicom(noise, make.J2K, encoded=encoded, stored=12, signed=1))
        == "header_mismatch"
    )
    assert is_twos_complement(noise // 2, 12)  # below half both readings are the same


# --- colours of JPEG 2000


COLOURS = np.dstack([(RAMP >> 4), (RAMP >> 4)[::-1], (RAMP % 251)]).astype(np.uint8)


def _j2k_of_colours(mixed):
    """A codestream whose components were mixed, or not."""
    from openjpeg.utils import encode_array

    return encode_array(COLOURS, photometric_interpretation=1, use_mct=mixed)


@pytest.mark.parametrize(
    ("header", "mixed", "expected"),
    [
        ("RGB", False, "as it is"),
        ("RGB", True, "as it is"),
        ("YBR_RCT", True, "as it is"),
        ("YBR_ICT", True, "as it is"),
        ("YBR_FULL", True, "as it is"),
        ("YBR_FULL", False, "converted"),
        ("YBR_RCT", False, "header_mismatch"),
        ("YBR_ICT", False, "header_mismatch"),
    ],
)
def test_the_codestream_says_whether_colours_were_transformed(tmp_path, header, mixed, expected):
    data = make.dicom(COLOURS, make.J2K, encoded=[_j2k_of_colours(mixed)], photometric=header)
    if expected == "header_mismatch":
        assert _code(tmp_path, data) == expected
    elif expected == "converted":
        native = make.dicom(COLOURS, photometric="YBR_FULL")
        np.testing.assert_array_equal(_pixels(tmp_path, data), _pixels(tmp_path, native))
    else:
        np.testing.assert_array_equal(_pixels(tmp_path, data), COLOURS)


# --- tables


def _table(count, first, bits, entries, name="voi_lut"):
    return {name: [{0x00283002: (count, first, bits), 0x00283006: entries}]}


@pytest.mark.parametrize(
    ("stated", "used"),  # a depth that is no width of storage is believed, where it suffices
    [
        *itertools.product([0, 8, 16, 32], [8, 10, 12, 16]),
        *[(10, 10), (10, 12), (10, 16), (12, 12), (12, 16)],
    ],
)
def test_the_depth_of_a_table_is_that_of_its_entries(tmp_path, stated, used):
    entries = np.linspace(0, 2**used - 1, 4096).astype("<u2")
    ours = _pixels(tmp_path, make.dicom(RAMP, stored=12, **_table(4096, 0, stated, entries.tobytes())))
    np.testing.assert_array_equal(ours, _scaled(entries[RAMP], 0, 2**used - 1))


def test_a_dark_table_of_a_stated_depth_stays_dark(tmp_path):
    entries = np.linspace(0, 2000, 4096).astype("<u2")
    ours = _pixels(tmp_path, make.dicom(RAMP, stored=12, **_table(4096, 0, 12, entries.tobytes())))
    np.testing.assert_array_equal(ours, _scaled(entries[RAMP], 0, 4095))


@pytest.mark.parametrize("stated", [8, 16])
@pytest.mark.parametrize("syntax", [make.EXPLICIT, make.BIG])
def test_entries_of_8_bits_in_bytes_or_in_words(tmp_path, stated, syntax):
    entries = (np.arange(256) // 2 + 128).astype(np.uint8)
    expected = _scaled(entries[RAMP >> 4], 0, 255)
    order = ">" if syntax == make.BIG else "<"
    packed = entries.view("<u2").astype(f"{order}u2").tobytes()
    words = entries.astype(f"{order}u2").tobytes()
    for data in (packed, words):
        ours = _pixels(tmp_path, make.dicom(RAMP >> 4, syntax, stored=8, **_table(256, 0, stated, data)))
        np.testing.assert_array_equal(ours, expected)


def test_65536_entries_are_written_as_0(tmp_path):
    wide = (np.arange(4096, dtype=np.uint16) * 16).reshape(64, 64)
    entries = np.arange(65536)[::-1].astype("<u2").tobytes()
    ours = _pixels(tmp_path, make.dicom(wide, **_table(0, 0, 16, entries)))
    np.testing.assert_array_equal(ours, _scaled(65535 - wide.astype(int), 0, 65535))


@pytest.mark.parametrize("name", ["voi_lut", "modality_lut"])
def test_the_first_input_may_be_negative_whatever_the_header_says_of_the_sign(tmp_path, name):
    """-1000 stands as 64536; of values that can't be as large as that it means -1000."""
    entries = np.arange(4096).astype("<u2").tobytes()
    data = make.dicom(RAMP // 2, stored=12, **_table(4096, -1000, 12, entries, name))
    expected = np.clip(RAMP // 2 + 1000, 0, 4095)
    low, high = (0, 4095) if name == "voi_lut" else (expected.min(), expected.max())
    np.testing.assert_array_equal(_pixels(tmp_path, data), _scaled(expected, low, high))
    # And of values that are as large it does not.
    large = RAMP // 4 + np.uint16(64000)
    data = make.dicom(large, **_table(4096, 63500, 12, entries, name))
    expected = RAMP // 4 + 500
    low, high = (0, 4095) if name == "voi_lut" else (expected.min(), expected.max())
    np.testing.assert_array_equal(_pixels(tmp_path, data), _scaled(expected, low, high))


def test_a_table_after_a_rescale_starts_where_its_values_do(tmp_path):
    entries = np.arange(4096).astype("<u2").tobytes()
    data = make.dicom(RAMP, stored=12, slope="1", intercept="-1024", **_table(4096, -1024, 12, entries))
    np.testing.assert_array_equal(_pixels(tmp_path, data), _scaled(RAMP, 0, 4095))


@pytest.mark.parametrize("stated", [8, 16])
def test_a_palette_has_one_depth_for_its_colours(tmp_path, stated):
    indices = (RAMP % 16).astype(np.uint8)
    colours = np.random.default_rng(0).integers(0, 256, (3, 16))
    colours[2] //= 4  # blue is never bright, and must not become so
    colours[0, 3] = 255
    for width in ("u1", "<u2"):
        values = dict.fromkeys(("red", "green", "blue"), (16, 0, stated))
        values |= {
            f"{name}_data": table.astype(width).tobytes()
            for name, table in zip(("red", "green", "blue"), colours, strict=True)
        }
        ours = _pixels(tmp_path, make.dicom(indices, photometric="PALETTE COLOR", **values))
        np.testing.assert_array_equal(ours, colours.T[indices])


def test_a_mask_with_a_palette_is_seen_as_it_is_shown(tmp_path):
    shown = (RAMP % 64 > 30).astype(np.uint8)
    tables = {f"{name}_data": bytes([255, 0]) for name in ("red", "green", "blue")}  # white comes first
    sizes = dict.fromkeys(("red", "green", "blue"), (2, 0, 8))
    (tmp_path / "m.dcm").write_bytes(make.dicom(1 - shown, photometric="PALETTE COLOR", **sizes, **tables))
    np.testing.assert_array_equal(decode_mask(tmp_path / "m.dcm", LIMITS), shown > 0)


# --- rescale, and one grey


@pytest.mark.parametrize(
    "rescale",
    [{"slope": "0", "intercept": "0"}, {"slope": "0"}, {"slope": "1"}, {"intercept": "0"}, {"slope": " "}],
)
def test_a_slope_of_0_is_none(tmp_path, rescale):
    window = {"center": 2048, "width": 4096}
    ours = _decoded(tmp_path, make.dicom(RAMP, stored=12, **window, **rescale))
    np.testing.assert_array_equal(ours.pixels, _pixels(tmp_path, make.dicom(RAMP, stored=12, **window)))
    assert ours.remarks == ()


def test_an_intercept_counts_without_a_slope(tmp_path):
    for slope in ({}, {"slope": "0"}, {"slope": "1"}):
        data = make.dicom(RAMP, stored=12, center=1024, width=4096, intercept="-1024", **slope)
        np.testing.assert_array_equal(
            _pixels(tmp_path, data), _pixels(tmp_path, make.dicom(RAMP, stored=12, center=2048, width=4096))
        )


@pytest.mark.parametrize("slope", ["nan", "inf", "1e99", "many", "1,5"])
def test_a_slope_that_is_no_number_is_refused(tmp_path, slope):
    assert _code(tmp_path, make.dicom(RAMP, stored=12, slope=slope)) == "unreadable"


@pytest.mark.parametrize(
    "known",
    [
        {"center": -5000, "width": 10},  # all is above
        {"center": 9999999, "width": 10},
        {"slope": "1e-30", "intercept": "-1024", "center": 40, "width": 400},
        _table(4096, 0, 12, bytes(8192)),
    ],
)
def test_a_frame_that_becomes_one_grey_is_remarked(tmp_path, known):
    assert _decoded(tmp_path, make.dicom(RAMP, stored=12, **known)).remarks == ("one_grey",)
    flat = np.full_like(RAMP, 7)
    assert _decoded(tmp_path, make.dicom(flat, stored=12, **known)).remarks == ()


def test_a_window_that_keeps_few_greys_is_remarked(tmp_path):
    assert _decoded(tmp_path, make.dicom(RAMP, center=32768, width=65536)).remarks == ("few_greys",)
    few = (RAMP // 256) * 16  # no more values than greys
    assert _decoded(tmp_path, make.dicom(few, center=128, width=256)).remarks == ()


def test_a_fraction_is_inside_from_half_on(tmp_path):
    header = struct.pack("<HH2sH", 0x0062, 0x0001, b"CS", 10) + b"FRACTIONAL"
    header += struct.pack("<HH2sHH", 0x0062, 0x000E, b"US", 2, 200)
    fractions = (RAMP // 16).astype(np.uint8)
    data = make.dicom(fractions)
    pixels = struct.pack("<HH", 0x7FE0, 0x0010)
    (tmp_path / "m.dcm").write_bytes(data.replace(pixels, header + pixels, 1))
    np.testing.assert_array_equal(decode_mask(tmp_path / "m.dcm", LIMITS), fractions >= 100)
