"""Pseudonyms, and where their key comes from."""

import multiprocessing
import pickle
import re
import stat
import traceback

import pytest

from xal_ray.errors import ConfigError
from xal_ray.pseudonyms import KEY_FILE_VARIABLE, KEY_VARIABLE, Pseudonyms, load_pseudonyms

KEY = bytes(range(32))


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty home, and no key from the environment."""
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    monkeypatch.delenv(KEY_FILE_VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path / "config" / "xal-ray" / "pseudonym.key"


def test_a_pseudonym_depends_on_key_kind_and_value():
    one = Pseudonyms(KEY)
    assert re.fullmatch(r"p-[0-9a-f]{16}", one.of("patient", "Doe^Jane"))
    assert one.of("patient", "a") == Pseudonyms(KEY).of("patient", "a")
    texts = {one.of("patient", "a"), one.of("study", "a"), one.of("patient", "b"), one.of("patient", "A")}
    assert len(texts | {Pseudonyms(KEY[::-1]).of("patient", "a")}) == 5


def test_kind_and_value_do_not_run_into_each_other():
    one = Pseudonyms(KEY)
    assert one.of("a", "b7:patient") != one.of("a7:patient", "b")
    assert one.of("ab", "c") != one.of("a", "bc")


@pytest.mark.parametrize(
    "same", ["M\u00fcller 7 ", "\0M\u00fcller 7\0\0", " Mu\u0308ller 7", "\tM\u00fcller 7\r\n"]
)
def test_padding_and_unicode_form_do_not_make_another_patient(same):
    assert Pseudonyms(KEY).of("patient", same) == Pseudonyms(KEY).of("patient", "M\u00fcller 7")


def test_blanks_within_a_value_count():
    assert Pseudonyms(KEY).of("patient", "1 2") != Pseudonyms(KEY).of("patient", "12")


def test_undecodable_bytes_of_a_header_have_a_pseudonym():
    text = b"caf\xe9".decode("ascii", "surrogateescape")
    assert Pseudonyms(KEY).of("patient", text) != Pseudonyms(KEY).of("patient", "caf")


def test_it_travels_and_shows_nothing_of_its_key():
    one = pickle.loads(pickle.dumps(Pseudonyms(KEY)))
    assert one.of("patient", "a") == Pseudonyms(KEY).of("patient", "a")
    assert re.fullmatch("[0-9a-f]{12}", one.key_id)
    assert one.key_id == Pseudonyms(KEY).key_id != Pseudonyms(KEY[::-1]).key_id
    shown = f"{one!r} {one} {one.key_id}"
    assert KEY.hex()[:8] not in shown
    assert repr(KEY)[2:10] not in shown
    with pytest.raises(ValueError, match="16 bytes"):
        Pseudonyms(KEY[:15])


def test_the_first_use_makes_a_key_for_its_owner_alone(home):
    made = load_pseudonyms()
    assert stat.S_IMODE(home.stat().st_mode) == 0o600
    assert stat.S_IMODE(home.parent.stat().st_mode) == 0o700
    assert len(bytes.fromhex(home.read_text())) == 32
    assert load_pseudonyms().key_id == made.key_id
    assert [path.name for path in home.parent.iterdir()] == ["pseudonym.key"]


def test_a_relative_config_home_is_ignored(home, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", "config")
    monkeypatch.setenv("HOME", str(tmp_path))
    load_pseudonyms()
    assert (tmp_path / ".config" / "xal-ray" / "pseudonym.key").is_file()


def _key_id(barrier, answers):
    barrier.wait()
    answers.put(load_pseudonyms().key_id)


def test_processes_that_begin_at_once_get_one_key(home):
    context = multiprocessing.get_context("fork")
    barrier, answers = context.Barrier(6), context.Queue()
    processes = [context.Process(target=_key_id, args=(barrier, answers)) for _ in range(6)]
    for process in processes:
        process.start()
    found = {answers.get(timeout=30) for _ in processes}
    for process in processes:
        process.join()
    assert found == {load_pseudonyms().key_id}


def test_the_environment_is_asked_first(home, tmp_path, monkeypatch):
    file = tmp_path / "key"
    file.write_text(KEY[::-1].hex())
    file.chmod(0o400)
    monkeypatch.setenv(KEY_FILE_VARIABLE, str(file))
    assert load_pseudonyms().key_id == Pseudonyms(KEY[::-1]).key_id
    monkeypatch.setenv(KEY_VARIABLE, f" {KEY.hex().upper()}\n")
    assert load_pseudonyms().key_id == Pseudonyms(KEY).key_id
    assert not home.exists()


@pytest.mark.parametrize("text", ["", "  ", "ab" * 15, "ab" * 15 + "a", "xy" * 16, "ab" * 16 + " " + "ab"])
def test_a_key_that_is_none_is_refused_and_not_quoted(home, monkeypatch, text):
    monkeypatch.setenv(KEY_VARIABLE, text)
    with pytest.raises(ConfigError, match="malformed or too short") as caught:
        load_pseudonyms()
    assert caught.value.details["next"]
    shown = "".join(traceback.format_exception(caught.value))
    assert text.strip()[:6] not in shown or not text.strip()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666])
def test_a_key_that_others_can_read_is_refused(home, mode):
    load_pseudonyms()
    home.chmod(mode)
    with pytest.raises(ConfigError, match="others can read") as caught:
        load_pseudonyms()
    assert home.read_text().strip() not in str(caught.value)
    assert "chmod 600" in caught.value.details["next"]


def test_an_emptied_key_file_is_not_replaced(home):
    load_pseudonyms()
    home.write_text("")
    with pytest.raises(ConfigError, match="malformed or too short"):
        load_pseudonyms()
    assert home.read_text() == ""


def test_a_named_key_file_must_exist(home, tmp_path, monkeypatch):
    monkeypatch.setenv(KEY_FILE_VARIABLE, str(tmp_path / "none"))
    with pytest.raises(ConfigError, match="no key file"):
        load_pseudonyms()
    assert not (tmp_path / "none").exists()


def test_a_home_that_takes_no_file_is_told(home, tmp_path, monkeypatch):
    (tmp_path / "config").write_text("a file where a folder should be")
    with pytest.raises(ConfigError, match="can't be kept") as caught:
        load_pseudonyms()
    assert KEY_VARIABLE in caught.value.details["next"]
