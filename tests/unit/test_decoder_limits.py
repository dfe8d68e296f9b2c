"""Bombs are refused by their codes before they cost anything, and strict mode caps what is left."""

import gzip
import os
import signal
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import image_files as make
import numpy as np
import pytest

from xal_ray.config import Limits
from xal_ray.errors import SourceError, XalRayError
from xal_ray.images import ImageError, decode_image, sandbox
from xal_ray.images.dicom import elements
from xal_ray.images.sandbox import Sandbox

ROOT = Path(__file__).resolve().parents[2]
GREY = np.random.default_rng(5).integers(0, 256, (40, 36)).astype(np.uint8)
KNOWN = {
    "samples": 1,
    "photometric": "MONOCHROME2",
    "rows": 40,
    "columns": 36,
    "allocated": 8,
    "stored": 8,
    "high_bit": 7,
    "signed": 0,
}


def _code(folder: Path, data: bytes, limits: Limits, **options) -> str:
    path = folder / "bomb.dcm"
    path.write_bytes(data)
    with pytest.raises(ImageError) as caught:
        decode_image(path, limits, **options)
    return caught.value.code


def _zeros(num_bytes: int, before: bytes = b"", after: bytes = b"") -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return (
        packer.compress(before) + packer.compress(bytes(num_bytes)) + packer.compress(after) + packer.flush()
    )


def test_deflated_headers_and_pixels_stop_at_the_limit(tmp_path):
    limits = Limits(max_file_bytes=1 << 20)
    private = struct.pack("<HH2sHI", 0x0009, 0x0010, b"UN", 0, 8 << 20)
    tail = make.elements(KNOWN) + make.element(0x7FE00010, GREY.tobytes())
    bomb = make.head_of(make.DEFLATED) + _zeros(8 << 20, private, tail)
    assert len(bomb) < 20_000
    assert _code(tmp_path, bomb, limits) == "file_too_large"
    assert _code(tmp_path, bomb, Limits(max_file_bytes=9 << 20, max_pixels=100)) == "too_many_pixels"
    # A frame is taken, and what the file calls pixels behind it is never inflated.
    pixels = struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OW", 0, 8 << 20)
    (tmp_path / "a.dcm").write_bytes(
        make.head_of(make.DEFLATED) + _zeros(8 << 20, make.elements(KNOWN) + pixels)
    )
    assert not decode_image(tmp_path / "a.dcm", limits).pixels.any()


@pytest.mark.parametrize("syntax", [make.J2K, make.JPEG, make.JPEG_LS, make.RLE])
def test_a_codestream_must_have_the_headers_size(tmp_path, syntax, monkeypatch):
    other = np.zeros((400, 300), dtype=np.uint8)
    data = make.dicom(GREY, syntax, encoded=[make.compress(other, syntax, 8)])
    import xal_ray.images.dicom.frames as frames

    for decoder in ("through_pydicom", "_jpeg"):
        monkeypatch.setattr(frames, decoder, lambda *_, **__: pytest.fail("pixels were decoded"))
    assert _code(tmp_path, data, Limits()) == "header_mismatch"


@pytest.mark.parametrize(
    ("limits", "frames", "code"),
    [
        (Limits(max_pixels=40 * 36 - 1), 3, "too_many_pixels"),
        (Limits(max_frames=2), 3, "too_many_frames"),
        (Limits(max_voxels=3 * 40 * 36 - 1), 3, "too_many_voxels"),
        (Limits(), 1_000_000, "too_many_frames"),
    ],
)
def test_sizes_of_the_header_are_checked_before_pixels(tmp_path, limits, frames, code):
    data = make.dicom(np.stack([GREY] * 3), frames=frames)
    assert _code(tmp_path, data, limits, frame=0) == code


def test_headers_without_end_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(elements, "_MAX_STEPS", 10_000)
    tiny = Limits(max_frames=4)
    endless = struct.pack("<HH2sHI", 0x0009, 0x0010, b"SQ", 0, 0xFFFFFFFF)
    item = struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
    nested = (endless + item) * 1000
    head = make.head_of(make.EXPLICIT)
    assert _code(tmp_path, head + nested, Limits()) == "unreadable"
    many = head + endless + item + struct.pack("<HHI", 0x0009, 0x0011, 0) * 10_100
    assert _code(tmp_path, many, Limits()) == "unreadable"
    long_value = make.element(0x00283006, bytes(5 << 20))
    assert _code(tmp_path, head + long_value, Limits()) == "unreadable"
    pieces = make.encapsulated([b"\0\0"] * 40)
    data = make.file_of(KNOWN, make.fragments_of(pieces), make.J2K)
    assert _code(tmp_path, data, tiny) == "unreadable"
    table = make.encapsulated([b"\0\0"] * 40, table=True)
    data = make.file_of(KNOWN, make.fragments_of(table), make.J2K)
    assert _code(tmp_path, data, tiny) == "too_many_frames"
    padded = make.encapsulated([make.compress(GREY, make.J2K, 8) + bytes(3 << 20)])
    assert (
        _code(tmp_path, make.file_of(KNOWN, make.fragments_of(padded), make.J2K), Limits())
        == "header_mismatch"
    )


def test_a_volume_may_promise_anything(tmp_path):
    promise = make.nifti(GREY[:8, :8, None], packed=True, dim=[3, 30000, 30000, 30000, 1, 1, 1, 1])
    assert _code(tmp_path, promise, Limits(), frame=0) == "too_many_voxels"
    hollow = make.nifti(GREY[:8, :8, None], dim=[3, 700, 700, 700, 1, 1, 1, 1])
    assert _code(tmp_path, hollow, Limits(), frame=0) == "truncated"
    assert _code(tmp_path, gzip.compress(hollow), Limits(), frame=0) == "truncated"
    assert _code(tmp_path, hollow, Limits(max_pixels=700 * 700 - 1), frame=0) == "too_many_pixels"


@pytest.mark.slow
def test_lengths_beyond_the_file_set_no_memory_aside(tmp_path):
    """In strict mode an allocation of 4 GB would be refused: these must not ask for one."""
    picture = make.raster(GREY, "PNG")
    long_chunk = picture[:33] + b"\xff\xff\xff\xf0" + picture[37:]
    private = struct.pack("<HH2sHI", 9, 16, b"UN", 0, 0xFFFFFFF0) + b"x" * 90
    with Sandbox(Limits(max_memory_mb=64)) as child:
        for data in (long_chunk, make.head_of(make.EXPLICIT) + private):
            path = tmp_path / "a.dcm"
            path.write_bytes(data)
            try:
                child.call("xal_ray.images:decode_image", path, Limits())
            except ImageError as error:
                codes = error.code
            else:
                codes = "read"  # Pillow takes what is there for enough
            assert codes in ("read", "unreadable", "truncated")


@pytest.mark.slow
def test_a_capped_child_gives_what_this_process_would(tmp_path):
    path = tmp_path / "a.dcm"
    path.write_bytes(make.dicom(GREY, make.J2K, patient="x-17", age="033Y"))
    with Sandbox(Limits()) as child:
        ours, theirs = decode_image(path, Limits()), child.call("xal_ray.images:decode_image", path, Limits())
        np.testing.assert_array_equal(theirs.pixels, ours.pixels)
        assert theirs.header == ours.header
        for missing in (tmp_path / "none", tmp_path):
            with pytest.raises(ImageError) as caught:
                child.call("xal_ray.images:decode_image", missing, Limits())
            assert caught.value.code in ("missing_file", "unreadable")
        with pytest.raises(SourceError, match="what") as error:
            child.call(f"{__name__}:raise_source_error")
        assert error.value.details["next"] == "do"
        assert child.memory_peak_mb() > 10


def raise_source_error() -> None:
    raise SourceError("what", next_step="do")


def take(megabytes: int) -> int:
    return len(bytearray(megabytes << 20))


def stand_still() -> None:
    time.sleep(60)


def crash() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def speak() -> str:
    print("DOE^JANE", flush=True)
    os.write(1, b"DOE^JANE")
    os.write(2, b"DOE^JANE")
    return "said"


class Trap:
    def __reduce__(self):
        return os.mkdir, (os.environ["TRAP"],)


def send_a_trap() -> Trap:
    return Trap()


@pytest.mark.slow
@pytest.mark.fault
def test_each_end_of_a_child_has_its_code_and_the_next_file_goes_on(tmp_path, monkeypatch, capfd):
    trap = tmp_path / "sprung"
    monkeypatch.setenv("TRAP", str(trap))
    with Sandbox(Limits(max_memory_mb=128, decode_timeout_s=5)) as child:
        assert child.call(f"{__name__}:take", 64) == 64 << 20
        for function, arguments, code in (
            ("take", (200,), "out_of_memory"),
            ("stand_still", (), "timeout"),
            ("crash", (), "decoder_crashed"),
            ("send_a_trap", (), "decoder_crashed"),
        ):
            with pytest.raises(ImageError) as caught:
                child.call(f"{__name__}:{function}", *arguments)
            assert caught.value.code == code
        assert child.call(f"{__name__}:speak") == "said"
    assert not trap.exists()
    assert "".join(capfd.readouterr()) == ""


def test_a_child_that_can_not_start_is_an_error_of_the_machine(monkeypatch):
    monkeypatch.setattr(sandbox.sys, "executable", "/bin/false")
    with Sandbox(Limits()) as child, pytest.raises(XalRayError, match="strict mode did not start"):
        child.call(f"{__name__}:take", 1)


@pytest.mark.slow
@pytest.mark.fault
def test_a_child_ends_with_its_parent(tmp_path):
    code = (
        "import sys, os, time; from pathlib import Path\n"
        "from xal_ray.config import Limits; from xal_ray.images.sandbox import Sandbox\n"
        "child = Sandbox(Limits()); child.call('os:getpid')\n"
        "Path(sys.argv[1]).write_text(str(child.call('os:getpid'))); time.sleep(60)\n"
    )
    told = tmp_path / "pid"
    parent = subprocess.Popen([sys.executable, "-c", code, str(told)], cwd=ROOT)
    try:
        _wait(lambda: told.exists() and told.read_text())
        pid = int(told.read_text())
        assert Path(f"/proc/{pid}").exists()
    finally:
        parent.kill()
        parent.wait()
    _wait(
        lambda: (
            not Path(f"/proc/{pid}/status").exists() or "State:\tZ" in Path(f"/proc/{pid}/status").read_text()
        )
    )


def _wait(ready) -> None:
    end = time.monotonic() + 60
    while not ready():
        assert time.monotonic() < end
        time.sleep(0.05)
