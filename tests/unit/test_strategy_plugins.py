"""Strategies of other packages: how they are found, what they are bound to, and what they are held to."""

import hashlib
import importlib
import sys
import uuid

import numpy as np
import pytest

from xal_ray.acquire.strategies import select
from xal_ray.acquire.streaming import Candidates
from xal_ray.config import Select, build_config
from xal_ray.engine.code_check import SameCode
from xal_ray.errors import ConfigError, PluginError, StageError
from xal_ray.loop.binding import identify, is_only_unused_code
from xal_ray.record.layout import RunLayout
from xal_ray.record.ledger import Ledger
from xal_ray.registry.lookup import Broken
from xal_ray.registry.plug_in_files import files_of
from xal_ray.registry.strategies import STRATEGIES

HEAD = (
    "import numpy as np\nfrom xal_ray.plugins import strategy\nfrom xal_ray.acquire.contract import Ranking\n"
)
ROW_WISE = """
@strategy(columns=["entropy"])
def mine(columns, settings):
    "The least certain first.\\n\\nMore words."
    return {}
"""
TURNED = "1 - columns['entropy']"
RANKER = """
@strategy(columns=["entropy"], kind="ranker")
def mine(replay, settings, seed):
    return lambda chunk: {}
"""


@pytest.fixture
def written(tmp_path, monkeypatch):
    """Writes a module into the working directory, which is not on `sys.path`; returns its name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [folder for folder in sys.path if folder])
    made = []

    def write(text, name=None):
        name = name or f"plugin_{uuid.uuid4().hex}"
        path = tmp_path / f"{name.replace('.', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(HEAD + text)
        made.append(name)
        return name

    yield write
    for name in [
        each for each in sys.modules if each.partition(".")[0] in {n.partition(".")[0] for n in made}
    ]:
        del sys.modules[name]


def chosen(path, **settings):
    """Six images, whose entropy falls from the first to the last."""
    columns = {"entropy": np.linspace(0.9, 0.4, 6), "margin": np.linspace(0.1, 0.6, 6)}
    chunk = Candidates.of(list("abcdef"), columns)
    return select(lambda: iter([chunk]), Select(strategy=path, query_size=2, **settings), seed=0)


def config(path, *overrides):
    return build_config({"name": "a", "select": {"strategy": path}}, overrides)


def test_a_function_of_a_module_in_the_working_directory_ranks(written):
    path = f"{written(ROW_WISE.format(TURNED))}:mine"
    found = chosen(path)
    assert found.image_ids == ["f", "e"]
    assert found.utilities == pytest.approx([0.6, 0.5])
    assert found.reasons == ["mine .60 of entropy .40", "mine .50 of entropy .50"]
    assert found.measured["uncertainty"] == pytest.approx([0.4, 0.5])
    assert STRATEGIES[path].words == "The least certain first."


def test_a_ranker_goes_over_all_rows_first(written):
    text = """
@strategy(columns=["entropy", "margin"], kind="ranker")
def mine(replay, settings, seed):
    top = max(chunk.column("entropy").max() for chunk in replay())
    def rank(chunk):
        return Ranking(chunk.column("entropy") / top, lambda row: "of the top")
    return rank
"""
    found = chosen(f"{written(text)}:mine")
    assert found.image_ids == ["a", "b"]
    assert found.utilities == pytest.approx([1.0, 0.8 / 0.9])
    assert found.reasons == ["of the top"] * 2
    assert found.measured["uncertainty"] == pytest.approx([0.9, 0.8])  # the first of its columns


@pytest.mark.parametrize(
    ("answer", "expected", "found"),
    [
        ("columns['entropy'][1:]", "shape (6,)", "shape (5,)"),
        ("np.ones((6, 2))", "shape (6,)", "shape (6, 2)"),
        ("np.where(columns['entropy'] > .5, np.nan, 1)", "finite utilities", "nan (4 rows of a chunk)"),
        ("np.full(6, np.inf)", "finite utilities", "inf (6 rows of a chunk)"),
        ("columns['entropy'] * 2", "from 0 to 1", "1.8 (4 rows of a chunk)"),
        ("-columns['entropy']", "from 0 to 1", "-0.9"),
        ("np.array(list('abcdef'))", "that are numbers", "<U1"),
        ("columns['margin']", "raises nothing", "KeyError: 'margin'"),
        ("columns['entropy'].sort()", "raises nothing", "read-only"),
        ("columns['entropy'] / columns['entropy'].max()", "rows beside a row", "smaller chunk"),
        ("columns['entropy'] - columns['entropy'].min()", "rows beside a row", "smaller chunk"),
        ("(_ for _ in ()).throw(SystemExit(0))", "raises nothing", "SystemExit: 0"),
        ("columns['entropy'] / columns['entropy'].sum()", "rows beside a row", "smaller chunk"),
        ("np.random.default_rng().random(len(columns['entropy']))", "rows beside a row", "smaller chunk"),
    ],
)
def test_a_breach_of_contract_names_the_strategy_and_what_was_found(written, answer, expected, found):
    path = f"{written(ROW_WISE.format(answer))}:mine"
    with pytest.raises(PluginError, match="breaks its contract") as caught:
        chosen(path)
    assert path in caught.value.what
    assert expected in caught.value.details["expected"]
    assert found in caught.value.details["found"]
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ("chunk.column('entropy')", "a ndarray"),
        ("Ranking(chunk.column('entropy'), lambda row: '')", "''"),
        ("Ranking(chunk.column('entropy'), str, second=np.full(chunk.num_rows, np.nan))", "nan"),
        ("Ranking(np.negative(chunk.column('entropy'), out=chunk.columns['entropy']), str)", "read-only"),
        ("Ranking(chunk.column('bald'), str)", "ValueError: the score table has no column bald"),
    ],
)
def test_a_ranker_is_held_to_its_contract_too(written, answer, found):
    with pytest.raises(PluginError) as caught:
        chosen(f"{written(RANKER.format(answer))}:mine")
    assert found in caught.value.details["found"]


def test_what_a_strategy_does_not_say_that_it_reads_can_not_matter(written):
    text = """
@strategy(columns=["entropy"]{})
def mine(columns, settings):
    return columns["entropy"] * settings.weight
"""
    silent, open_ = (f"{written(text.format(said))}:mine" for said in ("", ", settings=['weight']"))
    assert chosen(silent, weight=0.1).utilities == pytest.approx([0.45, 0.4])
    assert chosen(open_, weight=0.1).utilities == pytest.approx([0.09, 0.08])
    weights = ["select.weight=0.1"], ["select.weight=0.2"]
    first, second = (config(silent, *each).identity() for each in weights)
    assert first == second
    first, second = (config(open_, *each).identity() for each in weights)
    assert first != second


def test_the_uncertainty_column_is_the_one_that_the_configuration_names(written):
    text = ROW_WISE.replace("entropy", "uncertainty").format("columns['uncertainty']")
    path = f"{written(text)}:mine"
    assert chosen(path, uncertainty="margin").image_ids == ["f", "e"]
    assert config(path).select.columns == ("entropy",)
    assert config(path).has_effect("select.uncertainty")
    with pytest.raises(ConfigError, match="bald needs dropout samples"):
        config(path, "select.uncertainty=bald")


def test_a_strategy_of_regions_needs_them(written):
    text = "@strategy(columns=['misalignment'])\ndef mine(columns, settings):\n    ...\n"
    path = f"{written(text)}:mine"
    assert STRATEGIES[path].needs_roi
    assert STRATEGIES[path].needs_map
    with pytest.raises(ConfigError, match="needs regions of interest"):
        config(path, "roi.source=none")


@pytest.mark.parametrize(
    ("text", "attribute", "what", "found"),
    [
        ("1 / 0\n", "mine", "can't be imported", "ZeroDivisionError"),
        ("import no_such_module_at_all\n", "mine", "can't be imported", "no_such_module_at_all"),
        (ROW_WISE.format(0), "mines", "is not there", "without it"),
        ("def mine(columns, settings):\n    return 0\n", "mine", "is not a strategy", "without"),
        (
            "@strategy(columns=['entropie'])\ndef mine(c, s):\n    ...\n",
            "mine",
            "can't be used",
            "'entropy'?",
        ),
        ("raise SystemExit(0)\n", "mine", "can't be imported", "SystemExit: 0"),
        ("def mine(:\n", "mine", "can't be imported", "SyntaxError"),
        ("@strategy(kind='rowwise')\ndef mine(c, s):\n    ...\n", "mine", "can't be used", "'rowwise'"),
        ("@strategy(settings=['wait'])\ndef mine(c, s):\n    ...\n", "mine", "can't be used", "'weight'?"),
    ],
)
def test_what_is_no_strategy_is_said_when_the_configuration_is_read(written, text, attribute, what, found):
    path = f"{written(text)}:{attribute}"
    with pytest.raises(PluginError, match=what) as caught:
        build_config({"name": "a"}, [f"select.strategy={path}"])
    assert path in caught.value.what
    assert found in caught.value.details["found"]
    assert caught.value.details["where"] == "--set select.strategy=..."


def test_names_that_there_are_not_are_answered_with_the_nearest(written):
    for name, near in (("entrophy", "entropy"), ("Margin", "margin")):
        with pytest.raises(ConfigError, match=r"Input should be 'random', .* or ") as caught:
            config(name)
        assert caught.value.details["next"] == f"did you mean '{near}'?"
    name = written(ROW_WISE.format(0))
    for path in (f"./{name}.py:mine", f"{name}.py:mine", f"{name}:mines", f"{name}s:mine", f"{name}.mine"):
        with pytest.raises(ConfigError) as caught:
            config(path)
        assert f"{name}:mine" in caught.value.details["next"]
    with pytest.raises(PluginError, match="is not there"):
        config(":mine")
    with pytest.raises(PluginError, match="is not there") as caught:
        config("no_such_package.at_all:mine")
    assert "working directory" in caught.value.details["expected"]


def test_an_installed_package_gives_its_strategies_names(written, tmp_path):
    name = written(ROW_WISE.format("columns['entropy']"))
    points = [
        f"mine_of_{name} = {name}:mine",
        "entropy = a:b",
        "twice = a:b",
        "twice = c:d",
        "broken = no_such_package:x",
    ]
    card = tmp_path / "my_package-1.2.dist-info"
    card.mkdir()
    (card / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 1.2\n")
    (card / "entry_points.txt").write_text("[xal_ray.strategies]\n" + "\n".join(points))
    (card / "RECORD").write_text(f"{name}.py,,\n")
    sys.path.append(str(tmp_path))
    found = {entry.name: entry for entry in STRATEGIES.installed()}
    mine = found[f"mine_of_{name}"]
    assert (mine.words, str(mine.origin)) == ("The least certain first.", f"{name}:mine (my-package 1.2)")
    assert isinstance(found["broken"], Broken)
    assert "built in" in found["entropy"].why
    assert "several installed packages" in found["twice"].why
    # The version binds a run, under either name; the file's bytes do not.
    by_name, by_path = config(f"mine_of_{name}"), config(f"{name}:mine")
    assert by_name.identity() == by_path.identity()
    assert by_name.plug_ins() == {"select.strategy": f"{name}:mine (my-package 1.2)"}
    with pytest.raises(ConfigError) as caught:
        config(f"mine_of_{name}s")
    assert caught.value.details["next"] == f"did you mean 'mine_of_{name}'?"


def test_without_a_distribution_the_bytes_of_the_file_or_the_package_bind_a_run(written, tmp_path):
    alone = written(ROW_WISE.format("columns['entropy']"))
    content = hashlib.sha256((tmp_path / f"{alone}.py").read_bytes()).hexdigest()
    sha256 = hashlib.sha256(f"{alone}.py {content}\n".encode()).hexdigest()
    assert config(f"{alone}:mine").identity()["select"]["strategy"] == f"{alone}:mine (sha256 {sha256[:16]})"
    # With a package, all of its files count.
    name = f"package_{uuid.uuid4().hex}"
    first = written(ROW_WISE.format("columns['entropy']"), f"{name}.deep.first")
    written("", f"{name}.other")
    for folder in (name, f"{name}/deep"):
        (tmp_path / folder / "__init__.py").touch()
    before = STRATEGIES[f"{first}:mine"].origin
    (tmp_path / name / "__pycache__").mkdir(exist_ok=True)
    (tmp_path / name / "__pycache__" / "x.pyc").write_bytes(b"1")
    STRATEGIES._plug_ins.clear()
    assert STRATEGIES[f"{first}:mine"].origin == before
    (tmp_path / name / "other.py").write_text("# another\n")
    STRATEGIES._plug_ins.clear()
    assert STRATEGIES[f"{first}:mine"].origin != before


def test_what_a_module_imports_beside_it_is_part_of_it(written, tmp_path):
    beside, far, alone = written("C = 1\n"), written("D = 1\n"), written("")
    (tmp_path / f"{beside}.py").write_text(f"def late():\n    import {far}, json, numpy\n")
    name = written(f"from {beside} import late\n" + ROW_WISE.format("columns['entropy']"))
    before = STRATEGIES[f"{name}:mine"].origin
    assert [file for file, _ in files_of(sys.modules[name])] == [
        f"{name}.py",
        *sorted([f"{beside}.py", f"{far}.py"]),
    ]
    for changed, is_part in ((alone, False), (far, True)):
        (tmp_path / f"{changed}.py").write_text("D = 2\n")
        STRATEGIES._plug_ins.clear()
        assert (STRATEGIES[f"{name}:mine"].origin != before) == is_part


def test_code_that_has_changed_since_it_was_imported_is_refused_until_it_is_imported_anew(written):
    name = written(ROW_WISE.format("columns['entropy']"))
    before = config(f"{name}:mine").plug_ins()
    written(ROW_WISE.format("columns['entropy'] / 2"), name)
    with pytest.raises(PluginError, match="has changed since this process imported it") as caught:
        config(f"{name}:mine")
    assert "anew" in caught.value.details["next"]
    importlib.reload(sys.modules[name])
    assert config(f"{name}:mine").plug_ins() != before
    assert chosen(f"{name}:mine").utilities[0] == pytest.approx(0.45)


def test_ray_s_processes_look_where_this_one_has_found_a_plug_in(written, tmp_path, monkeypatch):
    name = written(ROW_WISE.format("columns['entropy']"), f"away_{uuid.uuid4().hex}")
    (tmp_path / "away").mkdir()
    (tmp_path / f"{name}.py").rename(tmp_path / "away" / f"{name}.py")
    monkeypatch.syspath_prepend(tmp_path / "away")
    path = f"{name}:mine"
    version = config(path).plug_ins()["select.strategy"]
    check = SameCode(plug_ins={path: version})
    del sys.modules[name]
    monkeypatch.setattr(sys, "path", [folder for folder in sys.path if folder != str(tmp_path / "away")])
    check.check()


def test_a_module_that_another_one_hides_is_named(written, tmp_path):
    (tmp_path / "statistics.py").write_text(HEAD + ROW_WISE.format("columns['entropy']"))
    with pytest.raises(PluginError, match="is not there") as caught:
        config("statistics:mine")
    assert f"rename {tmp_path / 'statistics.py'}" in caught.value.details["next"]


def test_a_run_goes_on_with_a_mended_strategy_until_one_has_chosen(written, tmp_path):
    class Pool:
        content_hash = "c0ffee"

    def read_again():
        del sys.modules[name]
        STRATEGIES._plug_ins.clear()
        return config(path)

    name = written(ROW_WISE.format("columns['entropy'] * 2"))
    path = f"{name}:mine"
    before = config(path)
    layout = RunLayout(tmp_path / "run")
    layout.path.mkdir()
    ledger = Ledger(layout.ledger)
    run_id = identify(before, Pool)
    ledger.append("run_started", run_id=run_id, plug_ins=before.plug_ins())
    written(ROW_WISE.format("columns['entropy']") + "# mended\n", name)
    now = read_again()
    assert identify(now, Pool) != run_id
    assert is_only_unused_code(now, Pool, layout, ledger)
    another = now.model_copy(update={"seed": 5})
    assert not is_only_unused_code(another, Pool, layout, ledger)
    layout.round(0).folder.mkdir(parents=True)
    layout.round(0).selection.touch()
    assert not is_only_unused_code(now, Pool, layout, ledger)


def test_all_of_ray_s_processes_have_the_driver_s_plug_ins(written, tmp_path, monkeypatch):
    name = written(ROW_WISE.format("columns['entropy']"))
    config(f"{name}:mine")
    check = SameCode()
    assert f"{name}:mine" in check.plug_ins
    # Another process starts in another folder, and knows nothing of this one.
    del sys.modules[name]
    monkeypatch.setattr(sys, "path", [folder for folder in sys.path if folder != str(tmp_path)])
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    mine = {path: version for path, version in check.plug_ins.items() if path == f"{name}:mine"}
    SameCode(plug_ins=mine, folders=check.folders).check()
    del sys.modules[name]
    (tmp_path / f"{name}.py").write_text(HEAD + ROW_WISE.format("columns['entropy'] / 2"))
    with pytest.raises(StageError, match="another version of the plug-in"):
        SameCode(plug_ins=mine, folders=check.folders).check()
    with pytest.raises(PluginError, match="is not there") as caught:
        SameCode(plug_ins={"no_such_package:x": ""}, folders=()).check()
    assert "on all machines" in caught.value.details["next"]
