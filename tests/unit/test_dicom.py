"""DICOM: pydicom's own files, and generated ones against arithmetic of our own."""

import logging
import struct
import sys
import warnings
from pathlib import Path

import image_files as make
import numpy as np
import pydicom
import pytest
from pydicom.pixels import apply_modality_lut, apply_voi_lut, pixel_array

from xal_ray.config import Dicom, Limits
from xal_ray.errors import SourceError
from xal_ray.images import ImageError, decode_image, decode_mask, to_training_size
from xal_ray.images.capabilities import decoder_capabilities
from xal_ray.images.dicom import lossless, plugins
from xal_ray.storage import write_bytes

LIMITS = Limits()
SHIPPED = Path(pydicom.__file__).parent / "data"
# Why a file of pydicom's own is refused; all others are pictures.
REFUSED = {
    "several_frames": """SC_rgb_rle_16bit_2frame.dcm SC_rgb_rle_2frame.dcm SC_rgb_rle_32bit_2frame.dcm
        examples_ybr_color.dcm rtdose.dcm rtdose_expb.dcm rtdose_rle.dcm""",
    "unsupported_transfer_syntax": "JPEG-lossy.dcm JPGExtended.dcm",  # of 12 bits
    "truncated": "MR_truncated.dcm no_meta.dcm rtplan_truncated.dcm",
    "header_mismatch": "JPEG2000-embedded-sequence-delimiter.dcm",  # its size is overwritten
    # Its number of frames is 1A; and those without sizes.
    "unreadable": "badVR.dcm meta_missing_tsyntax.dcm nested_priv_SQ.dcm",
    "no_pixels": """ExplVR_BigEndNoMeta.dcm ExplVR_LitEndNoMeta.dcm UN_sequence.dcm empty_charset_LEI.dcm
        no_meta_group_length.dcm priv_SQ.dcm reportsi.dcm
        reportsi_with_empty_number_tags.dcm rtplan.dcm rtstruct.dcm test-SR.dcm waveform_ecg.dcm
        chrJapMulti.dcm chrJapMultiExplicitIR6.dcm chrKoreanMulti.dcm chrSQEncoding.dcm chrSQEncoding1.dcm
        fall.dcm hotiron.dcm hotmetalblue.dcm pet.dcm pet20step.dcm spring.dcm summer.dcm winter.dcm""",
}
CODES = {name: code for code, names in REFUSED.items() for name in names.split()}

DEEP = np.random.default_rng(5).integers(0, 4096, (40, 36)).astype(np.uint16)
GREY = (DEEP >> 4).astype(np.uint8)
COLOURS = np.dstack([GREY, GREY[::-1], GREY[:, ::-1]])


def _files() -> list[Path]:
    """Those of the installed package; others would have to be fetched."""
    files = [path for path in SHIPPED.rglob("*") if path.is_file()]
    return sorted(path for path in files if path.suffix == ".dcm" or path.read_bytes()[128:132] == b"DICM")


def _save(folder: Path, data: bytes, name: str = "a.dcm") -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def _pixels(folder: Path, data: bytes, **options) -> np.ndarray:
    return decode_image(_save(folder, data), LIMITS, **options).pixels


def _code(folder: Path, data: bytes, limits: Limits = LIMITS, **options) -> str:
    with pytest.raises(ImageError) as caught:
        decode_image(_save(folder, data), limits, **options)
    assert caught.value.__cause__ is None
    return caught.value.code


def _scaled(values: np.ndarray, low: float, high: float) -> np.ndarray:
    share = np.clip((values.astype(float) - low) / (high - low), 0, 1)
    return np.floor(share * 255 + 0.5).astype(np.uint8)


def _assert_near(ours: np.ndarray, expected: np.ndarray) -> None:
    """Equal but for halves that were rounded the other way."""
    assert ours.shape == expected.shape
    difference = np.abs(ours.astype(int) - expected)
    assert difference.max() <= 1
    assert difference.mean() < 0.1


def test_each_file_that_pydicom_ships_is_a_picture_or_cleanly_refused(caplog):
    decoded, refused = 0, {}
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        for path in _files():
            try:
                picture = decode_image(path, LIMITS)
            except ImageError as error:
                in_directory = path.name.startswith(("DICOMDIR", "IM0000"))
                expected = "no_pixels" if in_directory else CODES.get(path.name)
                refused[path.name] = (error.code, expected)
            else:
                assert picture.pixels.dtype == np.uint8
                assert picture.header is not None
                decoded += 1
    assert not heard
    assert not caplog.records
    assert decoded >= 90
    assert {name: codes for name, codes in refused.items() if codes[0] != codes[1]} == {}
    assert set(CODES) <= set(refused)


def test_colours_of_shipped_files_are_pydicoms():
    compared = 0
    for path in _files():
        try:
            ours = decode_image(path, LIMITS).pixels
        except ImageError:
            continue
        with warnings.catch_warnings(action="ignore"):
            header = pydicom.dcmread(path, force=True)
            if header.SamplesPerPixel != 3:
                continue
            theirs = pixel_array(header, index=0)
        np.testing.assert_array_equal(ours, theirs // (2 ** (header.BitsStored - 8)), err_msg=path.name)
        compared += 1
    assert compared >= 25


@pytest.mark.parametrize("name", ["CT_small", "MR_small", "J2K_pixelrep_mismatch", "693_J2KI", "JPEG2000"])
def test_grey_of_shipped_files_follows_pydicoms_values(name):
    path = SHIPPED / "test_files" / f"{name}.dcm"
    with warnings.catch_warnings(action="ignore"):
        header = pydicom.dcmread(path)
        values = apply_voi_lut(apply_modality_lut(pixel_array(header, index=0), header), header).astype(float)
    ours = decode_image(path, LIMITS).pixels.astype(float)
    order = 1 - 2 * (header.PhotometricInterpretation == "MONOCHROME1")
    assert order * np.corrcoef(values.ravel(), ours.ravel())[0, 1] > 0.9999


def test_one_picture_in_each_syntax_is_one_picture():
    folder = SHIPPED / "test_files"
    first = decode_image(folder / "MR_small.dcm", LIMITS).pixels
    for kind in ("RLE", "bigendian", "expb", "implicit", "jp2klossless", "jpeg_ls_lossless", "padded"):
        np.testing.assert_array_equal(
            decode_image(folder / f"MR_small_{kind}.dcm", LIMITS).pixels, first, kind
        )


@pytest.mark.parametrize(
    "syntax",
    [
        make.EXPLICIT,
        make.IMPLICIT,
        make.BIG,
        make.DEFLATED,
        make.J2K,
        make.JPEG_LS,
        make.JPEG_LOSSLESS,
        make.RLE,
    ],
)
@pytest.mark.parametrize(
    "pixels", [DEEP, GREY, COLOURS, DEEP.astype(np.int16) - 2048], ids=["deep", "grey", "rgb", "signed"]
)
def test_lossless_syntaxes_give_the_stored_values(tmp_path, syntax, pixels):
    stored = 8 if pixels.dtype == np.uint8 else 12
    data = make.dicom(pixels, syntax, stored=stored)
    expected = pixels if stored == 8 else _scaled(pixels, pixels.min(), pixels.max())
    if pixels is GREY:
        expected = _scaled(pixels, pixels.min(), pixels.max())
    np.testing.assert_array_equal(_pixels(tmp_path, data), expected)
    np.testing.assert_array_equal(
        decode_mask(tmp_path / "a.dcm", LIMITS), (pixels != 0).reshape(40, 36, -1).any(2)
    )


@pytest.mark.parametrize(
    ("syntax", "stored"), [(make.JPEG, 8), (make.J2K_LOSSY, 12), (make.JPEG_LS_NEAR, 12)]
)
def test_lossy_syntaxes_are_near(tmp_path, syntax, stored):
    ramp = np.add.outer(np.arange(64) * 20, np.arange(64) * 40)
    ramp = (ramp >> (12 - stored)).astype(np.uint16 if stored > 8 else np.uint8)
    ours = _pixels(tmp_path, make.dicom(ramp, syntax, stored=stored)).astype(int)
    assert np.abs(ours - _scaled(ramp, ramp.min(), ramp.max())).max() <= 5


def test_jpeg_colours_are_converted_once(tmp_path):
    flat = np.zeros((16, 16, 3), dtype=np.uint8)
    flat[:] = (200, 60, 30)
    for photometric in ("YBR_FULL_422", "RGB"):  # the JFIF marker says YBR, whatever the header does
        data = make.dicom(flat, make.JPEG, photometric=photometric)
        assert np.abs(_pixels(tmp_path, data).astype(int) - flat).max() <= 3
    # An Adobe marker, as in place of JFIF's: colours are converted, and pydicom would do so again.
    jpeg = make.compress(flat, make.JPEG, 8)
    adobe = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x01"
    jfif_end = 4 + struct.unpack_from(">H", jpeg, 4)[0]
    data = make.dicom(
        flat, make.JPEG, photometric="YBR_FULL_422", encoded=[jpeg[:2] + adobe + jpeg[jfif_end:]]
    )
    assert np.abs(_pixels(tmp_path, data).astype(int) - flat).max() <= 3
    # No marker and RGB in the header: nothing is converted.
    bare = make.dicom(flat, make.JPEG, photometric="RGB", encoded=[jpeg[:2] + jpeg[jfif_end:]])
    assert np.abs(_pixels(tmp_path, bare).astype(int)[0, 0] - (98, 89, 200)).max() <= 3  # its YBR, as stored


def test_native_ybr_becomes_rgb_once(tmp_path):
    ybr = np.zeros((4, 4, 3), dtype=np.uint8)
    ybr[:] = (98, 89, 200)
    ours = _pixels(tmp_path, make.dicom(ybr, photometric="YBR_FULL"))
    assert np.abs(ours.astype(int)[0, 0] - (200, 60, 30)).max() <= 2


def test_monochrome1_is_inverted(tmp_path):
    plain = _pixels(tmp_path, make.dicom(DEEP, stored=12))
    inverted = _pixels(tmp_path, make.dicom(DEEP, stored=12, photometric="MONOCHROME1"))
    _assert_near(inverted, 255 - plain.astype(int))
    assert plain[np.unravel_index(DEEP.argmax(), DEEP.shape)] == 255
    windowed = {"stored": 12, "center": 1000, "width": 401}
    inverted = _pixels(tmp_path, make.dicom(DEEP, photometric="MONOCHROME1", **windowed))
    assert (inverted[DEEP < 700] == 255).all()
    assert (inverted[DEEP > 1300] == 0).all()


def test_windows_follow_the_standard(tmp_path):
    values = DEEP * 2.0 - 1024
    rescaled = {"stored": 12, "slope": "2.0", "intercept": "-1024"}
    linear = make.dicom(DEEP, center=("40", "600"), width=("401", "9"), **rescaled)
    expected = np.clip((values - 39.5) / 400 + 0.5, 0, 1)
    np.testing.assert_array_equal(_pixels(tmp_path, linear), np.floor(expected * 255 + 0.5))
    header = pydicom.dcmread(tmp_path / "a.dcm")
    theirs = apply_voi_lut(apply_modality_lut(pixel_array(header), header), header)
    theirs = (theirs - theirs.min()) / (theirs.max() - theirs.min())
    assert np.abs(theirs - expected).max() < 1e-6

    exact = make.dicom(DEEP, center=40, width=400, function="LINEAR_EXACT", **rescaled)
    expected = np.clip((values - 40) / 400 + 0.5, 0, 1)
    np.testing.assert_array_equal(_pixels(tmp_path, exact), np.floor(expected * 255 + 0.5))
    sigmoid = make.dicom(DEEP, center=40, width=400, function="SIGMOID", **rescaled)
    expected = 1 / (1 + np.exp(-4 * (values - 40) / 400))
    np.testing.assert_array_equal(_pixels(tmp_path, sigmoid), np.floor(expected * 255 + 0.5))
    # A slope below zero turns values round, and the window stays where it is.
    falling = make.dicom(DEEP, stored=12, slope="-1", intercept="4095", center=2048, width=4096)
    np.testing.assert_array_equal(_pixels(tmp_path, falling), _scaled(4095 - DEEP.astype(int), 0, 4095))


def test_the_configuration_overrules_the_headers_window(tmp_path):
    data = make.dicom(DEEP, stored=12, slope="1", intercept="-1000", center=0, width=10)
    given = _pixels(tmp_path, data, dicom=Dicom(window=(500.0, 2000.0)))
    _assert_near(given, _scaled(DEEP.astype(int) - 1000, -500, 1500))
    stretched = _pixels(tmp_path, data, dicom=Dicom(window="range"))
    np.testing.assert_array_equal(stretched, _scaled(DEEP, DEEP.min(), DEEP.max()))


def test_tables_are_looked_up_before_anything_is_scaled(tmp_path):
    modality = {0x00283002: (4096, 0, 16), 0x00283006: (np.arange(4096) * 16)[::-1].astype("<u2").tobytes()}
    ours = _pixels(tmp_path, make.dicom(DEEP, stored=12, modality_lut=[modality]))
    turned = 4095 - DEEP.astype(int)
    np.testing.assert_array_equal(ours, _scaled(turned, turned.min(), turned.max()))

    voi = {0x00283002: (100, 1000, 12), 0x00283006: np.linspace(0, 4095, 100).astype("<u2").tobytes()}
    ours = _pixels(tmp_path, make.dicom(DEEP, stored=12, voi_lut=[voi], center=7, width=7))
    entries = np.linspace(0, 4095, 100).astype(int)
    expected = entries[np.clip(DEEP.astype(int) - 1000, 0, 99)]
    np.testing.assert_array_equal(ours, _scaled(expected, 0, 4095))
    # A first input below zero, of signed values.
    voi[0x00283002] = (100, -50, 12)
    ours = _pixels(tmp_path, make.dicom(DEEP.astype(np.int16) - 2048, stored=12, voi_lut=[voi]))
    expected = entries[np.clip(DEEP.astype(int) - 2048 + 50, 0, 99)]
    np.testing.assert_array_equal(ours, _scaled(expected, 0, 4095))


def test_padding_does_not_stretch_the_range(tmp_path):
    padded = DEEP.astype(np.int16) - 100
    padded[:5] = -2000
    ours = _pixels(tmp_path, make.dicom(padded, padding=-2000, intercept="-24", slope="1"))
    assert (ours[:5] == 0).all()
    np.testing.assert_array_equal(ours[5:], _scaled(padded[5:], padded[5:].min(), padded[5:].max()))
    padded[:2] = -1990
    ranged = make.dicom(padded, padding=-2000, padding_limit=-1990, photometric="MONOCHROME1")
    assert (_pixels(tmp_path, ranged)[:5] == 0).all()


def test_twelve_bits_in_sixteen_heed_the_sign(tmp_path):
    signed = DEEP.astype(np.int16) - 2048
    waste = (signed & 0x0FFF) | 0x5000  # bits that do not count
    ours = _pixels(tmp_path, make.dicom(waste.astype(np.int16), stored=12))
    np.testing.assert_array_equal(ours, _scaled(signed, signed.min(), signed.max()))
    assert _code(tmp_path, make.dicom(DEEP, stored=12, high_bit=15)) == "unsupported_format"


@pytest.mark.parametrize("syntax", [make.EXPLICIT, make.BIG, make.DEFLATED, make.RLE, make.JPEG_LS, make.J2K])
@pytest.mark.parametrize("frames", [np.stack([DEEP, DEEP[::-1], DEEP // 2 + 1]), None])
def test_one_frame_of_many(tmp_path, syntax, frames):
    frames = np.stack([COLOURS, COLOURS[::-1], 255 - COLOURS]) if frames is None else frames
    data = make.dicom(frames, syntax, frames=3)
    assert _code(tmp_path, data) == "several_frames"
    assert _code(tmp_path, data, frame=3) == "no_such_frame"
    for number, frame in enumerate(frames):
        expected = frame if frame.ndim == 3 else _scaled(frame, frame.min(), frame.max())
        np.testing.assert_array_equal(_pixels(tmp_path, data, frame=number), expected)


def test_fragments_are_told_apart_by_tables_marks_or_number(tmp_path):
    frames = np.stack([DEEP, DEEP[::-1]])
    encoded = [make.compress(frame, make.J2K, 16) for frame in frames]
    known = {
        "samples": 1,
        "photometric": "MONOCHROME2",
        "rows": 40,
        "columns": 36,
        "allocated": 16,
        "stored": 16,
        "high_bit": 15,
        "signed": 0,
        "frames": 2,
    }
    starts = struct.pack("<QQ", 0, 8 + len(encoded[0]) + len(encoded[0]) % 2)
    lengths = struct.pack("<QQ", *map(len, encoded))
    extended = make.element(0x7FE00001, starts) + make.element(0x7FE00002, lengths)
    varieties = [
        (make.encapsulated(encoded), b""),
        (make.encapsulated(encoded, end=False), b""),
        (make.encapsulated(encoded, table=True, pieces=3), b""),
        (make.encapsulated(encoded, pieces=3), b""),
        (make.encapsulated(encoded), extended),
    ]
    for content, extra in varieties:
        data = make.file_of(known, make.fragments_of(content), make.J2K, extra=extra)
        for number, frame in enumerate(frames):
            np.testing.assert_array_equal(
                _pixels(tmp_path, data, frame=number), _scaled(frame, frame.min(), frame.max())
            )


def test_values_of_a_frame_stand_in_its_groups(tmp_path):
    frames = np.stack([DEEP, DEEP])
    shared = [{0x00289145: [{"slope": "1", "intercept": "-1000"}]}]
    own = [{0x00289132: [{"center": "0", "width": "201"}]}, {0x00289132: [{"center": "500", "width": "201"}]}]
    data = make.dicom(frames, stored=12, frames=2, shared=shared, per_frame=own)
    for number, center in enumerate((0, 500)):
        values = DEEP.astype(int) - 1000
        np.testing.assert_array_equal(
            _pixels(tmp_path, data, frame=number), _scaled(values, center - 100.5, center + 99.5)
        )


def test_palettes_bits_and_floats(tmp_path):
    colours = np.random.default_rng(0).integers(0, 65536, (3, 16)).astype("<u2")
    names = ("red", "green", "blue")
    values = dict.fromkeys(names, (16, 4, 16))
    values |= {f"{name}_data": table.tobytes() for name, table in zip(names, colours, strict=True)}
    indices = (GREY % 24).astype(np.uint8)
    ours = _pixels(tmp_path, make.dicom(indices, photometric="PALETTE COLOR", **values))
    expected = colours.astype(int).T[np.clip(indices.astype(int) - 4, 0, 15)]
    np.testing.assert_array_equal(ours, _scaled(expected, 0, 65535))

    bits = (DEEP % 2).astype(np.uint8)
    packed = np.packbits(np.stack([bits, 1 - bits]).ravel(), bitorder="little").tobytes()
    known = {
        "samples": 1,
        "photometric": "MONOCHROME2",
        "rows": 40,
        "columns": 36,
        "allocated": 1,
        "stored": 1,
        "high_bit": 0,
        "signed": 0,
        "frames": 2,
    }
    data = make.file_of(known, make.element(0x7FE00010, packed))
    np.testing.assert_array_equal(_pixels(tmp_path, data, frame=1), (1 - bits) * 255)

    for dtype in (np.float32, np.float64):
        real = (DEEP / 7).astype(dtype)
        real[0, 0], real[0, 1] = np.nan, np.inf
        ours = _pixels(tmp_path, make.dicom(real))
        assert (ours[0, 0], ours[0, 1]) == (0, 255)
        np.testing.assert_array_equal(
            ours[1:], _scaled(real[1:], real.ravel()[2:].min(), real.ravel()[2:].max())
        )


def test_only_the_allow_list_leaves_the_header(tmp_path, capfd, caplog):
    canary = "CANARY^PATIENT"
    named = {"name": canary, "patient": " 17-x ", "study": "1.2.3", "institution": "St. Elsewhere"}
    shown = {"sex": "F", "age": "045Y", "maker": "Maker, Ltd", "model": "X<1>", "burned_in": "YES"}
    decoded = decode_image(_save(tmp_path, make.dicom(DEEP, **named, **shown)), LIMITS)
    header = decoded.header
    assert header is not None
    assert (header.patient_id, header.study_uid, header.institution) == ("17-x", "1.2.3", "St. Elsewhere")
    assert (header.sex, header.age_band, header.device) == ("F", "40-49", "Maker Ltd X 1")
    assert header.burned_in
    for secret in (canary, "17-x", "1.2.3", "Elsewhere"):
        assert secret not in repr(decoded)
    for damage in (canary.encode() + b"\0" * 40, b"\xff" * 60):
        broken = make.dicom(DEEP, make.J2K, **named, stored=12)
        place_of = broken.index(b"\xff\x4f\xff\x51") + 30
        broken = broken[:place_of] + damage + broken[place_of + len(damage) :]
        with pytest.raises(ImageError) as caught:
            decode_image(_save(tmp_path, broken), LIMITS)
        assert canary not in str(caught.value)
    assert not caplog.records
    assert "".join(capfd.readouterr()) == ""
    assert logging.getLogger("pydicom").propagate


@pytest.mark.parametrize(
    ("age", "band"),
    [
        *(("009Y", "00-09"), ("010Y", "10-19"), ("089Y", "80-89"), ("090Y", "90+"), ("120Y", "90+")),
        *(("011M", "00-09"), ("003W", "00-09"), ("4", None), ("", None), ("about 50", None)),
    ],
)
def test_ages_become_decades(tmp_path, age, band):
    header = decode_image(_save(tmp_path, make.dicom(GREY, age=age)), LIMITS).header
    assert header is not None
    assert header.age_band == band


@pytest.mark.parametrize("syntax", [make.EXPLICIT, make.IMPLICIT, make.BIG])
def test_a_file_without_its_first_bytes_is_told_by_its_name(tmp_path, syntax):
    data = make.dicom(DEEP, syntax, meta=False, modality="CR")
    expected = _scaled(DEEP, DEEP.min(), DEEP.max())
    np.testing.assert_array_equal(_pixels(tmp_path, data), expected)
    with pytest.raises(ImageError, match="unsupported_format"):
        decode_image(_save(tmp_path, data, "a.bin"), LIMITS)
    whole = make.dicom(DEEP, make.RLE)
    assert decode_image(_save(tmp_path, whole, "a.png"), LIMITS).header is not None


def test_a_syntax_that_nobody_decodes_here_names_what_would(tmp_path, monkeypatch):
    deep = b"\xff\xd8\xff\xc1" + struct.pack(">HBHHB", 11, 12, 40, 36, 1) + b"\1\x11\0" + b"\xff\xd9"
    data = make.dicom(DEEP, make.JPEG_EXTENDED, encoded=[deep], name="CANARY")
    with pytest.raises(ImageError, match="more than 8 bits needs pylibjpeg-libjpeg") as caught:
        decode_image(_save(tmp_path, data), LIMITS)
    assert caught.value.code == "unsupported_transfer_syntax"
    lossless = make.dicom(DEEP, make.JPEG_LOSSLESS, stored=12)
    assert decode_image(_save(tmp_path, lossless), LIMITS).frame == DEEP.shape
    monkeypatch.setitem(plugins._DECODERS, make.JPEG_LOSSLESS, ())
    with pytest.raises(ImageError, match="extra 'dicom'"):
        decode_image(_save(tmp_path, lossless), LIMITS)
    unknown = make.dicom(DEEP, "1.2.840.10008.1.2.4.103", encoded=[b"\0" * 64])  # MPEG-4
    assert _code(tmp_path, unknown) == "unsupported_transfer_syntax"


def test_a_file_that_ends_gdcm_ends_nothing_else(tmp_path):
    whole = make.dicom(DEEP, make.JPEG_LOSSLESS, stored=12)
    expected = _pixels(tmp_path, make.dicom(DEEP, stored=12))
    np.testing.assert_array_equal(_pixels(tmp_path, whole), expected)
    child = lossless._child(LIMITS)._child
    frame = make.compress(DEEP, make.JPEG_LOSSLESS, 12)
    without_table = frame.replace(b"\xff\xc4", b"\xff\x01", 1)  # GDCM throws what nobody catches
    damaged = make.dicom(DEEP, make.JPEG_LOSSLESS, stored=12, encoded=[without_table])
    assert _code(tmp_path, damaged) == "unreadable"
    assert child.poll() is not None
    np.testing.assert_array_equal(_pixels(tmp_path, whole), expected)


def _wavy(rows: int, columns: int) -> np.ndarray:
    """Something smooth of 12 bits, with an edge."""
    y, x = np.mgrid[0:rows, 0:columns]
    return (2000 + 1500 * np.sin(y / 31) * np.cos(x / 23) + 500 * (x > columns / 2)).astype(np.uint16)


@pytest.mark.parametrize(("syntax", "bits"), [(make.J2K, 12), (make.J2K, 8), (make.J2K_LOSSY, 12)])
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("frame", [(802, 415), (640, 512)])
def test_jpeg_2000_is_decoded_no_larger_than_needed(tmp_path, syntax, bits, photometric, frame):
    values = _wavy(*frame) if bits == 12 else (_wavy(*frame) >> 4).astype(np.uint8)
    window = {"center": 1 << (bits - 1), "width": 1 << bits}
    path = _save(tmp_path, make.dicom(values, syntax, stored=bits, photometric=photometric, **window))
    scaled, full = (decode_image(path, LIMITS, at_least=size) for size in (100, None))
    assert full.pixels.shape == scaled.frame == full.frame == frame
    assert scaled.pixels.shape == tuple(-(-side // 4) + 1 for side in frame)
    ours, expected = (to_training_size(each.pixels, 100, 1, each.box).astype(int) for each in (scaled, full))
    assert np.abs(ours - expected).mean() < 0.8
    assert np.abs(ours - expected).max() < 24  # at the edge: another filter


@pytest.mark.parametrize("side", [400, 401, 402, 403, 409, 415])
def test_jpeg_2000_of_any_side_can_be_read(tmp_path, side):
    path = _save(tmp_path, make.dicom(_wavy(side, 448), make.J2K, stored=12, center=2048, width=4096))
    assert decode_image(path, LIMITS, at_least=40).frame == (side, 448)


def test_jpeg_2000_is_decoded_whole_where_values_must_not_be_mixed(tmp_path):
    values = _wavy(256, 256)
    table = {0x00283002: (4096, 0, 8), 0x00283006: (np.arange(4096) // 16).astype("<u2").tobytes()}
    window = {"center": 2048, "width": 4096}
    whole = {
        "range": make.dicom(values, make.J2K, stored=12),
        "padding": make.dicom(values, make.J2K, stored=12, padding=0, **window),
        "table": make.dicom(values, make.J2K, stored=12, modality_lut=[table], **window),
        "signed": make.dicom(values.astype(np.int16) - 2000, make.J2K, stored=13, **window),
        "colours": make.dicom(np.dstack([(values >> 4).astype(np.uint8)] * 3), make.J2K),
    }
    for name, data in whole.items():
        assert decode_image(_save(tmp_path, data), LIMITS, at_least=64).pixels.shape[:2] == (256, 256), name
    path = _save(tmp_path, make.dicom(values, make.J2K, stored=12, **window))
    assert decode_image(path, LIMITS, at_least=64).pixels.shape == (65, 65)
    whole_range = decode_image(path, LIMITS, at_least=64, dicom=Dicom(window="range"))
    assert whole_range.pixels.shape == (256, 256)
    assert decode_image(path, LIMITS, at_least=64, dicom=Dicom(window=(0, 9))).pixels.shape == (65, 65)


def test_a_file_in_an_object_store(tmp_path, s3_bucket):
    data = make.dicom(DEEP, make.RLE)
    remote = s3_bucket / "a.dicom"
    write_bytes(remote, data)
    expected = _scaled(DEEP, DEEP.min(), DEEP.max())
    np.testing.assert_array_equal(decode_image(remote, LIMITS).pixels, expected)
    with pytest.raises(ImageError, match="file_too_large"):
        decode_image(remote, Limits(max_file_bytes=len(data) - 1))


@pytest.mark.parametrize("syntax", [make.EXPLICIT, make.DEFLATED, make.J2K, make.JPEG_LS, make.RLE])
def test_a_truncated_file_is_never_half_an_image(tmp_path, syntax):
    data = make.dicom(DEEP, syntax, stored=12)
    whole = _pixels(tmp_path, data)
    for num_bytes in np.linspace(1, len(data) - 1, 40).astype(int):
        try:
            ours = _pixels(tmp_path, data[:num_bytes])
        except ImageError:
            continue
        np.testing.assert_array_equal(ours, whole)
        assert num_bytes > len(data) - 40


def test_the_doctor_tries_what_the_permissive_packages_decode():
    found = {capability.kind: capability for capability in decoder_capabilities()}
    assert {kind for kind, capability in found.items() if not capability.works} == set()
    assert "by gdcm" in found["DICOM JPEG lossless"].text
    assert "of 8 bits" in found["DICOM JPEG extended"].text
    tried = [kind for kind, capability in found.items() if capability.text == "yes: decoded a file"]
    assert len(tried) == 10
    assert "HTJ2K" in str(found)


def test_a_missing_package_names_its_extra(tmp_path, monkeypatch):
    path = _save(tmp_path, make.dicom(DEEP))
    monkeypatch.setitem(sys.modules, "pydicom.pixels", None)
    with pytest.raises(SourceError, match=r"xal-ray\[dicom\]"):
        decode_image(path, LIMITS)
