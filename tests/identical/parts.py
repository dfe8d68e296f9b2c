"""What is run to compare two trees: parts that know nothing of each other, each in a folder of its own.

They use the command line and read files, nothing else of the project: code may move below them as it likes.
"""

from __future__ import annotations

import csv
import importlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from identical.fingerprints import fingerprint, of_folder, without_folder
from layouts.drawn import LOOKS, picture
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "configs"
REAL_SET = ROOT.parent / "shared" / "data" / "brain_tumor_t1ce"
XAL_RAY = Path(sys.executable).with_name("xal-ray")
LAYOUTS = (
    "brats",
    "cheng",
    "chexlocalize",
    "coco",
    "isic2018",
    "nih_cxr14",
    "rsna_pneumonia",
    "siim_covid",
    "vindr",
    "yolo",
)
STRATEGIES = (
    "random",
    "entropy",
    "margin",
    "least_confidence",
    "bald",
    "misalignment",
    "dual",
    "shuffled_roi",
    "smallest_roi",
)
# Patients of a fixture have the same pseudonyms in every record.
_ENVIRONMENT = {"XAL_RAY_PSEUDONYM_KEY": "5a" * 32}
_TIMEOUT_S = 1200

# A run that takes seconds; 64 px give maps of 2 x 2 cells, of which many are 0.
TINY: Mapping[str, Any] = {
    "name": "tiny",
    "num_rounds": 1,
    "pool": {
        "path": "pools/tiny",
        "image_size": 64,
        "rows_per_part": 24,
        "source": {"kind": "phantom", "phantom": {"num_patients": 40, "images_per_patient": 2, "seed": 5}},
    },
    "model": {"backbone": "efficientnet_lite0", "weights": "imagenet"},
    "train": {"max_steps": 4, "eval_every_steps": 2, "minibatch_size": 8, "num_threads": 1},
    "score": {"batch_size": 8, "rows_per_shard": 16, "max_error_fraction": 0.9},
    "select": {"initial_labels": 12, "query_size": 6},
    "ray": {"num_actors": 0, "object_store_mb": 200},
}


class CommandError(Exception):
    """A command did not end as it should; nothing was proved."""


@dataclass
class Workshop:
    """The folder that a part works in, and what it has found there.

    Attributes:
        folder: Empty at first.
        entries: Fingerprints, by what they are of.
        left_out: Why the part could not be done here, if so.
    """

    folder: Path
    entries: dict[str, str] = field(default_factory=dict)
    left_out: str | None = None

    def command(self, name: str, *arguments: str | Path, code: int = 0, num_lines: int = 0) -> None:
        """Run `xal-ray` in the folder; enter its exit code and what it printed.

        Args:
            name: Of the entries.
            arguments: Of the command.
            code: The exit code that it has to have.
            num_lines: Of what it printed only so many last lines are entered; 0: all.

        Raises:
            CommandError: The exit code is another than expected.
        """
        done = subprocess.run(
            [XAL_RAY, *map(str, arguments)],
            cwd=self.folder,
            env=os.environ | _ENVIRONMENT,
            capture_output=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
        if done.returncode != code:
            raise CommandError(
                f"{' '.join(map(str, arguments))}\nended with {done.returncode}, not {code}:\n"
                + done.stderr.decode(errors="replace")[-2000:]
            )
        self.entries[f"{name}: exit code"] = str(done.returncode)
        lines = without_folder(done.stdout, self.folder).splitlines(keepends=True)
        self.entries[f"{name}: printed"] = fingerprint(b"".join(lines[-num_lines:]))
        (self.folder / f"printed, {name}.txt").write_bytes(done.stdout)  # to look at, with --keep

    def files(self, *names: str) -> None:
        """Enter all files of folders."""
        for name in names:
            self.entries |= of_folder(self.folder / name, self.folder)

    def config(self, name: str, **sections: Any) -> str:
        """Write a tiny run's YAML with some sections' keys replaced; its name."""
        tree = dict(TINY)
        for section, value in sections.items():
            tree[section] = {**tree.get(section, {}), **value} if isinstance(value, dict) else value
        (self.folder / name).write_text(yaml.safe_dump(tree))
        return name

    def fixture(self, kind: str, num_patients: int = 15) -> list[str]:
        """Build a public set's layout in `sets/<kind>`; the overrides that a pool of it needs."""
        root = Path("sets") / kind
        (self.folder / root).mkdir(parents=True)
        layout = importlib.import_module(f"layouts.{kind}")
        settings = layout.build(self.folder / root, num_patients=num_patients, seed=1)
        settings["source"]["path"] = str(root)
        self.files(f"sets/{kind}")  # where these differ, the pool must
        return _overrides(settings)


def quickstart(shop: Workshop) -> None:
    """The quickstart, as it is."""
    shop.command("run", "run", CONFIGS / "quickstart.yaml")
    shop.files("pools", "runs")


def mri(shop: Workshop) -> None:
    """The MRI configuration, small: every tenth slice at 96 px, two rounds, real masks and maps."""
    if not (REAL_SET / "manifest.csv").is_file():
        shop.left_out = f"the real MRI slices are not at {REAL_SET}"
        return
    with (REAL_SET / "manifest.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))[::10]
    for row in rows:
        for name in (row["image"], row["mask"]):
            (shop.folder / "mri" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(REAL_SET / name, shop.folder / "mri" / name)
    _write_csv(shop.folder / "mri" / "manifest.csv", rows)
    small = ("pool.source.path=mri/manifest.csv", "pool.image_size=96", "num_rounds=2")
    short = ("train.max_steps=40", "train.eval_every_steps=20", "select.query_size=15")
    tolerant = "score.max_error_fraction=0.1"  # of maps of 3 x 3 cells some are 0
    shop.command("run", "run", CONFIGS / "brain_tumor_t1ce.yaml", *_set(*small, *short, tolerant))
    shop.files("pools", "runs")


def sweep(shop: Workshop) -> None:
    """Two arms and two seeds, on a frozen backbone whose activations are kept."""
    config = shop.config("tiny.yaml", model={"freeze": "backbone"}, train={"augment": "none"})
    shop.command("sweep", "sweep", config, "--param", "select.strategy=random,dual", "--seeds", "2")
    shop.files("pools", "sweeps")


def strategies(shop: Workshop) -> None:
    """Every strategy, on three classes: with two, all uncertainties rank alike."""
    settings = shop.fixture("cheng", num_patients=40)
    config = shop.config("tiny.yaml", pool={"source": {}}, score={"mc_samples": 3})
    tried = f"select.strategy={','.join(STRATEGIES)}"
    shop.command("sweep", "sweep", config, *_set(*settings), "--param", tried, "--seeds", "1")
    shop.files("pools", "sweeps")


def prepare(shop: Workshop) -> None:
    """The packed pool of each fixture, of an image folder and of a manifest."""
    common = _set("pool.image_size=32", "pool.limits.max_error_fraction=0.2")
    for kind in LAYOUTS:
        settings = _set(*shop.fixture(kind))
        shop.command(
            kind, "prepare", f"sets/{kind}", "--kind", kind, "--out", f"pools/{kind}", *common, *settings
        )
    _draw_folder(shop.folder / "sets" / "drawn")
    by_image = _set("pool.group_by=image")
    shop.command("folder", "prepare", "sets/drawn", "--out", "pools/folder", *common, *by_image)
    shop.command("table", "prepare", "sets/drawn/manifest.csv", "--out", "pools/table", *common)
    shop.files("sets/drawn", "pools")


def score(shop: Workshop) -> None:
    """A run on part of a pool with actors and other settings than usual, and single passes with its model."""
    config = shop.config(
        "tiny.yaml",
        num_rounds=2,
        train={"init": "previous"},
        score={"saliency": "gradcam++", "subsample": 0.5, "runners_up": 4},
        select={"uncertainty": "margin", "normalise": "minmax", "max_per_group": 1},
        ray={"num_actors": 2},
    )
    shop.command("run", "run", config)
    passed = ("score", "--model", "runs/tiny/rounds/002", "--pool", "pools/tiny")
    shop.command("query", *passed, "--out", "scored/query", "--query-size", "5")
    margins = _set("select.strategy=margin", "score.saliency=gradcam")
    shop.command("margin", *passed, "--out", "scored/margin", "--query-size", "5", *margins)
    shop.command("holdout", *passed, "--out", "scored/holdout", "--split", "val", "--split", "test")
    (shop.folder / "runs/tiny/report.html").unlink()
    shop.command("report", "report", "runs/tiny")
    shop.files("pools", "runs", "scored")


def workers(shop: Workshop) -> None:
    """Training on two workers with checkpoints, and scoring in bf16."""
    config = shop.config(
        "tiny.yaml",
        train={"num_workers": 2},
        score={"precision": "bf16"},
        ray={"checkpoint_every_steps": 2},
    )
    # On a busy machine, what stood above the last line differed between two records of one commit.
    shop.command("run", "run", config, num_lines=1)
    shop.files("runs")


def people(shop: Workshop) -> None:
    """What is exported to people, and what is read from them."""
    config = shop.config("tiny.yaml", labels={"source": "export"}, select={"strategy": "entropy"})
    shop.command("initial set", "run", config)
    asked = shop.folder / "runs/tiny/initial/to_label/selection.csv"
    with asked.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    _write_csv(
        shop.folder / "answers.csv",
        [{**row, "label": ("lesion", "normal")[number % 2]} for number, row in enumerate(rows)],
    )
    shop.command("import", "labels", "import", "runs/tiny", "answers.csv")
    shop.command("round 0", "run", config)
    shop.files("runs")


def configs(shop: Workshop) -> None:
    """The other configurations of configs/, each on its fixture and short; and the quickstart's plan."""
    shop.command("quickstart, dry", "run", CONFIGS / "quickstart.yaml", "--dry-run")
    for kind in ("brats", "siim_covid", "vindr"):
        small = ("pool.image_size=64", "pool.limits.max_error_fraction=0.2", "score.max_error_fraction=0.9")
        short = ("num_rounds=1", "train.max_steps=2", "train.eval_every_steps=1", "train.minibatch_size=8")
        few = ("select.initial_labels=6", "select.query_size=3", "ray.num_actors=0")
        settings = _set(*shop.fixture(kind), *small, *short, *few)
        shop.command(kind, "run", CONFIGS / f"{kind}.yaml", *settings)
    shop.files("runs")


def refusals(shop: Workshop) -> None:
    """The exit codes of what is refused. What is said may be said better: it is not compared."""
    config = shop.config("tiny.yaml")
    refused: dict[str, tuple[str, ...]] = {
        "no such file": ("run", "none.yaml"),
        "unknown key": ("run", config, *_set("selct.weight=1")),
        "unknown strategy": ("run", config, *_set("select.strategy=entropi")),
        "no regions": ("run", config, *_set("roi.source=none")),
        "too many labels": ("run", config, *_set("num_rounds=9", "select.query_size=50")),
        "unknown source": ("prepare", "sets", "--kind", "bratz", "--out", "pools/none"),
        "no source": ("prepare", "nowhere", "--out", "pools/none"),
        "no model": ("score", "--model", "nowhere", "--pool", "nowhere", "--out", "scored"),
        "no run": ("report", "nowhere"),
        "unknown option": ("run", config, "--nonsense"),
    }
    for name, arguments in refused.items():
        shop.command(name, *arguments, code=2)


PARTS: Mapping[str, Callable[[Workshop], None]] = {
    part.__name__: part
    for part in (quickstart, mri, sweep, strategies, prepare, score, workers, people, configs, refusals)
}


def _set(*texts: str) -> list[str]:
    return [word for text in texts for word in ("--set", text)]


def _overrides(settings: Mapping[str, Any], prefix: str = "pool.") -> list[str]:
    texts: list[str] = []
    for key, value in settings.items():
        if isinstance(value, Mapping):
            texts += _overrides(value, f"{prefix}{key}.")
        else:
            texts.append(f"{prefix}{key}={json.dumps(value)}")
    return texts


def _draw_folder(root: Path) -> None:
    """Folders of classes with masks beside them, and a manifest of the same pictures in pairs."""
    rng = np.random.default_rng(1)
    rows = []
    for number in range(30):
        look = LOOKS[number % 3]
        grey, mask = picture(rng, look)
        image, region = f"{look}/{number:02d}.png", f"masks/{look}/{number:02d}.png"
        for name, pixels in ((image, grey), (region, mask.astype(np.uint8) * 255)):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(root / name)
        rows.append({"image": image, "mask": region, "label": look, "group_id": f"g{number // 2}"})
    _write_csv(root / "manifest.csv", rows)


def _write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
