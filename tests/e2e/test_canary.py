"""What headers say of patients is in no file, log or message of a run.

Files whose headers hold canaries wherever a patient, a date or free text may stand, some of them damaged so
that readers complain and quote, are prepared, learnt from, scored, reported on and exported.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import stat
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image, PngImagePlugin

NUM_PATIENTS = 32
SIDE = 64
CANARIES = (
    "QUOKKASON",  # pieces of names, too
    "WILHELMINA",
    "ZORBLATT",
    "PIDCANARY",
    "ACCNCANARY",
    "HOSPICANARY",
    "DRCANARY",
    "OPCANARY",
    "FREECANARY",
    "PRIVCANARY",
    "NESTCANARY",
    "VRCANARY",
    "77741.58313",
    "19570304",
    "20190817",
    "235911.77",
    "555-0142",
)


def header(dataset, patient):
    """Fill all that a header may say of a patient."""
    from pydicom.dataset import Dataset

    name = f"QUOKKASON^WILHELMINA{patient}^ZORBLATT"
    uid = f"1.2.826.77741.58313.{patient + 1}"
    values = {
        "PatientName": name,
        "PatientID": f"PIDCANARY{patient:03d}" + " " * (patient % 2),
        "IssuerOfPatientID": "HOSPICANARY",
        "OtherPatientNames": name,
        "PatientBirthName": name,
        "PatientMotherBirthName": name,
        "PatientBirthDate": "19570304",
        "PatientAddress": "QUOKKASON LANE 7",
        "PatientTelephoneNumbers": "555-0142",
        "PatientComments": "FREECANARY of the patient",
        "AccessionNumber": f"ACCNCANARY{patient}",
        "InstitutionName": "HOSPICANARY General",
        "InstitutionAddress": "HOSPICANARY Street",
        "InstitutionalDepartmentName": "HOSPICANARY Ward",
        "StationName": "HOSPICANARY",
        "ReferringPhysicianName": "DRCANARY^Ann",
        "PerformingPhysicianName": "DRCANARY^Bo",
        "NameOfPhysiciansReadingStudy": "DRCANARY^Cy",
        "OperatorsName": "OPCANARY^Di",
        "StudyDate": "20190817",
        "SeriesDate": "20190817",
        "AcquisitionDate": "20190817",
        "ContentDate": "20190817",
        "StudyTime": "235911.77",
        "AcquisitionDateTime": "20190817235911.77",
        "StudyInstanceUID": uid,
        "SeriesInstanceUID": f"{uid}.1",
        "FrameOfReferenceUID": f"{uid}.2",
        "StudyID": "ACCNCANARY",
        "StudyDescription": "FREECANARY study",
        "SeriesDescription": "FREECANARY series",
        "ProtocolName": "FREECANARY protocol",
        "ImageComments": "FREECANARY comment",
        "RequestedProcedureDescription": "FREECANARY procedure",
        "AdditionalPatientHistory": "FREECANARY history",
        "DeviceSerialNumber": "PRIVCANARY",
    }
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    nested = Dataset()
    nested.PatientName, nested.TextValue = "NESTCANARY^QUOKKASON", "NESTCANARY"
    deeper = Dataset()
    deeper.ReferringPhysicianName, deeper.ContentSequence = "DRCANARY^NESTCANARY", [nested]
    dataset.RequestAttributesSequence = [deeper]
    dataset.OtherPatientIDsSequence = [nested]
    block = dataset.private_block(0x0011, "PRIVCANARY MAKER", create=True)
    block.add_new(0x01, "LO", "PRIVCANARY QUOKKASON")
    block.add_new(0x02, "UN", b"PRIVCANARY bytes")


def write_scan(path, number, patient, *, bright, change=None):
    """Write a small scan of a patient; `change` damages the data set, or the bytes it gives back."""
    import pydicom
    from pydicom.uid import ExplicitVRLittleEndian

    rng = np.random.default_rng(number)
    values = rng.normal(900, 120, (SIDE, SIDE))
    row, column = rng.integers(12, SIDE - 12, 2)
    values[row - 8 : row + 8, column - 8 : column + 8] += 1500 if bright else -500
    dataset = pydicom.Dataset()
    dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1"
    dataset.SOPInstanceUID = f"1.2.826.77741.58313.9.{number + 1}"
    header(dataset, patient)
    dataset.PatientSex, dataset.PatientAge = "FM"[patient % 2], f"{30 + patient % 40:03d}Y"
    dataset.Manufacturer, dataset.Modality, dataset.SamplesPerPixel = "Maker", "DX", 1
    dataset.BurnedInAnnotation = "YES" if number == 0 else "NO"
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.Rows = dataset.Columns = SIDE
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
    dataset.PixelData = np.clip(values, 0, 4095).astype("<u2").tobytes()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.file_meta.SourceApplicationEntityTitle = "HOSPICANARY"
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    if change is not None:
        path.write_bytes(change(path.read_bytes()))


def replaced(tag, vr, value):
    """Damage: the element of a tag gets these bytes, whatever its VR allows."""
    group, element = tag >> 16, tag & 0xFFFF
    long = vr in (b"OB", b"OW", b"SQ", b"UN", b"UT")
    length = struct.pack("<HI" if long else "<H", *((0, len(value)) if long else (len(value),)))
    new = struct.pack("<HH", group, element) + vr + length + value

    def change(data):
        place = data.find(struct.pack("<HH", group, element) + vr[:0], 132)
        if place >= 0 and data[place + 4 : place + 6].isalpha():
            (old,) = struct.unpack("<H", data[place + 6 : place + 8])
            return data[:place] + new + data[place + 8 + old :]
        before = data.rfind(struct.pack("<HH", 0x7FE0, 0x0010))  # not there yet: before the pixels
        return data[:before] + new + data[before:]

    return change


DAMAGE = {
    "window_of_words": replaced(0x00281050, b"DS", b"QUOKKASON\\VRCANARY"),
    "frames_of_words": replaced(0x00280008, b"IS", b"VRCANARY"),
    "rows_of_three_bytes": replaced(0x00280010, b"US", b"VRC"),
    "age_of_words": replaced(0x00101010, b"AS", b"VRCANARY"),
    "date_of_words": replaced(0x00080020, b"DA", b"VRCANARY QUOKKASON"),
    "unknown_vr": replaced(0x00080090, b"ZZ", b"VRCANARY^QUOKKASON"),
    "photometric": replaced(0x00280004, b"CS", b"QUOKKASON VRCANARY"),
    "bytes_of_no_alphabet": replaced(0x00100010, b"PN", b"QUOKKASON\xff\xfe\x00\x1b$BVRCANARY"),
    "character_set": replaced(0x00080005, b"CS", b"VRCANARY"),
    "syntax": lambda data: data.replace(b"1.2.840.10008.1.2.1\0", b"1.2.3.VRCANARY.1.2.3", 1),
    "cut_in_pixels": lambda data: data[: -SIDE * SIDE],
    "cut_in_header": lambda data: data[: data.find(b"FREECANARY history") + 8],
    "wrong_length": lambda data: data.replace(b"LO\x12\x00FREECANARY", b"LO\xf2\xffFREECANARY", 1),
    "text": lambda _: b"QUOKKASON VRCANARY\n" * 40,
}


def write_sources(folder):
    """Whole scans of 32 patients in two classes, damaged ones, and a PNG that names its patient."""
    for number in range(NUM_PATIENTS * 2):
        kind = ("clear", "lesion")[number // 2 % 2]
        write_scan(folder / kind / f"{number:03d}.dcm", number, number // 2, bright=kind == "lesion")
    for number, (name, change) in enumerate(sorted(DAMAGE.items()), start=200):
        write_scan(
            folder / "clear" / f"{name}.dcm", number, number % NUM_PATIENTS, bright=False, change=change
        )
    text = PngImagePlugin.PngInfo()
    text.add_text("Description", "QUOKKASON FREECANARY")
    Image.fromarray(np.full((SIDE, SIDE), 90, dtype=np.uint8)).save(folder / "clear" / "z.png", pnginfo=text)


def forms(word):
    """How a word may be written: as text of one or two bytes a letter, hexadecimal, and within base64."""
    raw = word.lower().encode()
    yield from (raw, word.lower().encode("utf-16-le"), word.lower().encode("utf-16-be"), raw.hex().encode())
    for offset in range(3):
        # Letters that depend on what stands before and after are left away; case matters here.
        text = base64.b64encode(b"\0" * offset + word.encode())
        whole = text[(8 * offset + 5) // 6 : (8 * (offset + len(word))) // 6]
        if len(whole) >= 8:
            yield whole


def traces(content, words):
    """The words that some bytes hold in any form."""
    lowered = content.lower()
    return {
        word
        for word in words
        for number, form in enumerate(forms(word))
        if form in (lowered if number < 4 else content)
    }


def contents(path):
    """A file's bytes, and what it holds within: Parquet's columns, a picture's texts, a page's pictures."""
    data = path.read_bytes()
    yield data
    if path.suffix == ".parquet":
        for name, column in zip(*_columns(path), strict=True):
            yield name.encode()
            yield b"\n".join(value if isinstance(value, bytes) else str(value).encode() for value in column)
    if path.suffix == ".png":
        with Image.open(path) as image:
            yield repr(image.info).encode()
    if path.suffix == ".html":
        for piece in data.split(b";base64,")[1:]:
            yield base64.b64decode(piece.split(b'"')[0])


def _columns(path):
    table = pq.read_table(path, partitioning=None)
    return table.column_names, [column.to_pylist() for column in table.columns]


def traces_below(folder, words):
    """Where words are found below a folder: names and contents of files."""
    found = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        hits = traces(str(name).encode(), words)
        if path.is_file() and not path.is_symlink() and stat.S_ISREG(path.stat().st_mode):
            for content in contents(path):
                hits |= traces(content, words)
        found += [(str(name), word) for word in sorted(hits)]
    return found


def test_a_planted_canary_is_found_in_every_form(tmp_path):
    word = "QUOKKASON"
    table = pa.table(
        {
            "a": ["x" * 50, f"the {word.title()}"] * 40,
            "b": [b"\0" * 9, base64.b64encode(b"a" + word.encode())] * 40,
        }
    )
    pq.write_table(table, tmp_path / "packed.parquet", compression="ZSTD")
    text = PngImagePlugin.PngInfo()
    text.add_text("Name", word, zip=True)
    Image.new("L", (4, 4)).save(tmp_path / "noted.png", pnginfo=text)
    (tmp_path / "utf16.log").write_bytes(f"...{word}".encode("utf-16"))
    (tmp_path / "hex.json").write_text(json.dumps({"a": word.lower().encode().hex()}))
    page = base64.b64encode(b"<svg>12" + word.encode()).decode()
    (tmp_path / "page.html").write_text(f'<img src="data:image/svg+xml;base64,{page}">')
    (tmp_path / f"of_{word.lower()}").mkdir()
    (tmp_path / "clean.txt").write_text("nothing")
    found = {name for name, _ in traces_below(tmp_path, CANARIES)}
    assert found == {
        "packed.parquet",
        "noted.png",
        "utf16.log",
        "hex.json",
        "page.html",
        f"of_{word.lower()}",
    }


@pytest.fixture
def elsewhere():
    """A home and a place for Ray's files of their own; its sockets want a short path."""
    folder = Path(tempfile.mkdtemp(prefix="xc"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


# Ray's session folder goes with its process; here it is kept, to be searched.
LEAVING_RAYS_FILES = """
from xal_ray import cli, machine
from xal_ray.engine import orphans
machine._remove = orphans.watch = lambda *_: None
cli.main()
"""


def xal_ray(folder, elsewhere, *words):
    """Run a command; what it said is kept beside Ray's files, to be searched too."""
    environment = os.environ | {
        "HOME": str(elsewhere / "home"),
        "XDG_CONFIG_HOME": str(elsewhere / "config"),
        "RAY_TMPDIR": str(elsewhere / "ray"),
        "TMPDIR": str(elsewhere / "tmp"),
    }
    for name in ("XAL_RAY_PSEUDONYM_KEY", "XAL_RAY_PSEUDONYM_KEY_FILE", "RAY_ADDRESS"):
        environment.pop(name, None)
    for name in ("home", "ray", "tmp", "said"):
        (elsewhere / name).mkdir(exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-c", LEAVING_RAYS_FILES, *words],
        cwd=folder,
        env=environment,
        capture_output=True,
        timeout=280,
        check=False,
    )
    number = len(list((elsewhere / "said").iterdir()))
    (elsewhere / "said" / f"{number}.txt").write_bytes(done.stdout + b"\n" + done.stderr)
    return done.returncode, (done.stdout + done.stderr).decode()


def settings(folder):
    tree = {
        "name": "canary",
        "num_rounds": 2,
        "roi": {"source": "none"},
        "pool": {
            "path": "pool",
            "source": {"kind": "folder", "path": "scans"},
            "image_size": 64,
            "group_by": "header",
            "rows_per_part": 16,
            "limits": {"max_error_fraction": 0.5},
        },
        "model": {"backbone": "efficientnet_lite0", "weights": "imagenet"},
        "train": {"max_steps": 4, "eval_every_steps": 2, "minibatch_size": 8, "num_threads": 1},
        "score": {"batch_size": 8, "rows_per_shard": 16},
        "select": {"strategy": "entropy", "initial_labels": 8, "query_size": 4},
        "ray": {"num_cpus": 4, "num_actors": 1, "object_store_mb": 100},
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(tree))


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.e2e
@pytest.mark.timeout(600)
def test_no_canary_is_in_any_file_log_or_message(tmp_path, elsewhere):
    sources, work = tmp_path / "work" / "scans", tmp_path / "work"
    write_sources(sources)
    planted = {word for _, word in traces_below(sources, CANARIES)}
    assert planted == set(CANARIES)
    settings(work)
    # Each step is said once, aloud or not: a failure aloud shows the traceback as well.
    aloud = ("--verbose", "--debug")
    given = ("scans", "--config", "run.yaml")
    too_many = ("--set", "pool.limits.max_error_fraction=0.001")
    exported = ("--set", "labels.source=export", "--set", "ray.num_actors=0", "--out", "runs/export")
    code, said = xal_ray(work, elsewhere, "prepare", *given, "--out", "refused", *too_many, *aloud)
    assert code == 2, said
    assert "too many images can't be used" in said
    assert "Traceback" in said
    for words in (
        ("prepare", *given, "--out", "pool"),
        ("run", "run.yaml", "--out", "runs/canary", *aloud),
        ("run", "run.yaml", *exported),
    ):
        code, said = xal_ray(work, elsewhere, *words)
        assert code == 0, said
    shutil.rmtree(sources)

    _check_that_it_was_all_there(work)
    assert len({log.name for log in (elsewhere / "ray").rglob("session_*/logs/worker-*.err")}) >= 3
    key = (elsewhere / "config" / "xal-ray" / "pseudonym.key").read_text().strip()
    raw = bytes.fromhex(key).decode("latin-1")
    shutil.rmtree(elsewhere / "config")
    assert traces_below(work, CANARIES) == []
    assert traces_below(elsewhere, CANARIES) == []
    for place in (work, elsewhere):
        assert traces_below(place, (key,)) == []
        for path in place.rglob("*"):
            if path.is_file() and not path.is_symlink():
                assert raw.encode("latin-1") not in path.read_bytes(), path


def _check_that_it_was_all_there(work):
    """Else nothing could have leaked."""
    card = json.loads((work / "pool" / "card.json").read_text())
    assert card["num_rows"] >= 2 * NUM_PATIENTS
    assert sum(card["num_groups"].values()) == NUM_PATIENTS  # by the patients of the headers
    assert card["burned_in"]["num_images"] == 1
    assert card["pseudonym_key_id"]
    assert {entry["reason"] for entry in card["excluded"]} >= {"no_group", "truncated"}
    index = pq.read_table(work / "pool" / "index.parquet", partitioning=None)
    assert all(group.startswith("p-") for group in index["group_id"].to_pylist())
    known = pq.read_table(work / "pool" / "attributes.parquet", partitioning=None)
    assert set(known["sex"].to_pylist()) == {"F", "M"}
    assert len(list((work / "runs" / "canary" / "rounds").glob("*/COMMITTED"))) == 3
    assert (work / "runs" / "canary" / "report.html").is_file()
    assert list((work / "runs" / "export").rglob("to_label/*.png"))
