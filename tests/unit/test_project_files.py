"""What stands beside the code says the same as the code: versions, tools, targets, templates."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CI = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
TARGETS = "make check test"


def lines_of(target):
    """What `make` would call, on a machine where all is set up."""
    command = ["make", "--dry-run", "--always-make", target]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_hosted_ci_calls_what_a_developer_calls():
    steps = CI["jobs"]["check-and-test"]["steps"]
    assert [step["run"] for step in steps if "run" in step] == [TARGETS]
    assert [step["uses"].partition("@")[0] for step in steps if "uses" in step] == [
        "actions/checkout",
        "actions/setup-python",
    ]
    assert TARGETS in (ROOT / ".ci/run").read_text()


def test_hosted_ci_runs_a_python_that_is_claimed():
    (version,) = [
        step["with"]["python-version"] for step in CI["jobs"]["check-and-test"]["steps"] if "with" in step
    ]
    assert f"Programming Language :: Python :: {version}" in PROJECT["classifiers"]


def test_the_oldest_python_that_is_claimed_is_the_one_that_is_required():
    claimed = [name.rpartition(" ")[2] for name in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", name)]
    assert (
        PROJECT["requires-python"] == f">={min(claimed, key=lambda version: int(version.partition('.')[2]))}"
    )
    readme = (ROOT / "README.md").read_text()
    assert f"Tested with Python {' and '.join(claimed)}" in readme


def test_pre_commit_calls_the_tools_of_the_virtual_environment_as_make_does():
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert repository["repo"] == "local"  # nothing is fetched
    called = [hook["entry"].removesuffix(" --force-exclude") for hook in repository["hooks"]]
    assert all(hook["language"] == "system" for hook in repository["hooks"])
    linted = re.findall(r"^\.venv/bin/(?:ruff|mypy|lint-imports).*$", lines_of("lint"), re.MULTILINE)
    assert called == [re.sub(r"( --check)? \.$", "", line) for line in linted]


def test_make_counts_lines_for_test_and_not_for_check():
    assert "--cov" in lines_of("test")
    assert "--cov" not in lines_of("check")


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == PROJECT["version"]
    assert citation["license"] == PROJECT["license"]
    (paper,) = citation["references"]
    readme = " ".join((ROOT / "README.md").read_text().split())
    assert paper["title"] in readme
    assert paper["url"] in readme


def test_the_changelog_has_the_version():
    text = (ROOT / "CHANGELOG.md").read_text()
    assert re.findall(r"^## (.*)$", text, re.MULTILINE)[0] == "[Unreleased]"
    version = re.escape(PROJECT["version"])
    assert re.search(rf"^## \[{version}\] - \d{{4}}-\d\d-\d\d$|to become {version}\b", text, re.MULTILINE)


@pytest.mark.parametrize(
    "form", sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml")), ids=lambda path: path.stem
)
def test_issue_forms_are_whole(form):
    content = yaml.safe_load(form.read_text())
    assert content["name"]
    assert content["description"]
    fields = [field for field in content["body"] if field["type"] != "markdown"]
    assert len({field["id"] for field in fields}) == len(fields) > 0
    assert all(field["attributes"]["label"] for field in fields)


@pytest.mark.parametrize(
    "name", ["SECURITY.md", ".github/pull_request_template.md", ".github/ISSUE_TEMPLATE/bug.yml"]
)
def test_files_and_commands_that_are_named_exist(name):
    text = (ROOT / name).read_text()
    for path in re.findall(r"\]\((?!http)([^)#]+)\)|`((?:benchmarks|tests|configs)/[\w/.]*)`", text):
        assert (ROOT / "".join(path)).exists(), path
    for target in re.findall(r"`make (\w+)`", text):
        assert lines_of(target)


def test_a_built_package_holds_every_file_that_is_no_python():
    package = ROOT / "xal_ray"
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    shipped = {
        path
        for name, globs in patterns.items()
        for each in globs
        for path in (ROOT / name.replace(".", "/")).glob(each)
    }
    others = {path for path in package.rglob("*") if path.suffix not in (".py", ".pyc") and path.is_file()}
    assert shipped == others >= {package / "py.typed", package / "report/style.css.j2"}
