import pytest
from typer.testing import CliRunner

from xal_ray.cli import app


def call(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_help_names_every_command():
    text = call("--help").stdout
    for command in (
        *("prepare", "run", "sweep", "score", "report", "labels", "doctor"),
        *("attach", "down", "strategies", "sources", "backbones"),
    ):
        assert command in text


@pytest.mark.parametrize("command", ["prepare", "run", "sweep", "score", "report", "doctor"])
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


def test_a_report_of_no_run_asks_for_a_run_and_not_for_a_configuration(tmp_path):
    result = call("report", tmp_path / "none")
    assert result.exit_code == 2
    assert "error: there is no run here" in result.stderr
    assert "give the path of a run's folder" in result.stderr


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
        (("prepare", "nowhere", "--out", "pool", "--kind", "brast"), "did you mean --kind brats?"),
        (
            ("prepare", "nowhere", "--out", "pool", "--set", "pool.iamge_size=8"),
            "where:    --set pool.iamge_size=8",
        ),
        (("score", "--model", "nowhere", "--pool", "nowhere", "--out", "scores"), "no packed pool"),
    ],
)
def test_sources_and_pools_that_are_not_there(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    result = call(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "nothing to try"),
        (("--param", "select.weight"), "not of the form KEY=VALUE"),
        (("--param", "select.weight=0:1"), "give a step"),
        (("--param", "select.wieght=0,1"), "did you mean 'select.weight'?"),
        (("--param", "seed=0:9:1"), "--seeds"),
        (("--param", "select.weight=0,1", "--search", "grdi"), "sweep.search"),
        (("--param", "select.weight=0,1", "--trials-at-once", "9"), "9 x 1 logical CPUs"),
        (("--param", "select.weight=0,1", "--baseline", "select.strategy=rndom"), "select.strategy"),
    ],
)
def test_a_sweep_that_can_not_work_is_an_error_with_exit_code_2(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text("name: x\n")
    result = call("sweep", "config.yaml", "--dry-run", *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


@pytest.mark.slow
def test_a_dry_run_of_a_sweep_names_its_arms_and_does_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text("name: x\nsweep: {params: {select.weight: '0:1:0.25'}, seeds: 3}\n")
    result = call("sweep", "config.yaml", "--dry-run", "--trials-at-once", "2")
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0] == "sweep      sweeps/x"
    assert lines[1:7] == [
        "arm        select.strategy=random (baseline)",
        *(f"arm        select.weight={weight}" for weight in ("0", "0.25", "0.5", "0.75", "1")),
    ]
    assert "seeds      3: 0 to 2" in lines
    assert "trials     6 arms, in all 18 runs of 5 rounds" in lines
    assert any(line.startswith("at once    2, each with 1 CPUs") for line in lines)
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]
