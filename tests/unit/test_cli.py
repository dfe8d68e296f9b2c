import pytest
from typer.testing import CliRunner

from xal_ray.cli import app


def call(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_help_names_every_command():
    text = call("--help").stdout
    for command in ("prepare", "run", "score", "report", "labels", "doctor"):
        assert command in text


@pytest.mark.parametrize("command", ["prepare", "run", "score", "report", "doctor"])
def test_each_command_explains_its_options(command):
    result = call(command, "--help")
    assert result.exit_code == 0
    assert "--debug" in result.stdout


def test_a_missing_config_is_a_clear_error_with_exit_code_2(tmp_path):
    result = call("run", tmp_path / "none.yaml")
    assert result.exit_code == 2
    assert "error: the configuration file can't be read" in result.stderr
    assert "none.yaml" in result.stderr
    assert "Traceback" not in result.stderr


def test_an_unknown_key_is_named_with_its_nearest_match(tmp_path):
    (tmp_path / "config.yaml").write_text("name: x\nselect: {stratgy: margin}\n")
    result = call("run", tmp_path / "config.yaml")
    assert result.exit_code == 2
    assert "did you mean 'select.strategy'?" in result.stderr


def test_debug_shows_a_traceback(tmp_path):
    result = call("run", tmp_path / "none.yaml", "--debug")
    assert result.exit_code == 2
    assert "Traceback" in result.stderr


def test_a_wrong_set_is_named(tmp_path):
    (tmp_path / "config.yaml").write_text("name: x\n")
    result = call("run", tmp_path / "config.yaml", "--set", "select.query_size=many")
    assert result.exit_code == 2
    assert "select.query_size" in result.stderr
    assert "many" in result.stderr


def test_a_run_that_is_not_there_has_no_report_and_takes_no_labels(tmp_path):
    for arguments in (
        ("report", tmp_path / "none"),
        ("labels", "import", tmp_path / "none", tmp_path / "l.csv"),
    ):
        result = call(*arguments)
        assert result.exit_code == 2, arguments
        assert "none" in result.stderr
        assert not (tmp_path / "none").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("prepare", "nowhere.csv", "--out", "pool"), "nowhere.csv"),
        (("score", "--model", "nowhere", "--pool", "nowhere", "--out", "scores"), "no packed pool"),
    ],
)
def test_sources_and_pools_that_are_not_there(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    result = call(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert list(tmp_path.iterdir()) == []
