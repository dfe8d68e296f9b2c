"""Says what is to run on a cluster: a command with its resolved configuration, and what it leaves behind."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from xal_ray.config import Config, build_config
from xal_ray.errors import ConfigError
from xal_ray.places import is_remote
from xal_ray.pool.layout import PoolLayout
from xal_ray.record.layout import REPORT_FILE, SCORE_RECORD, SELECTION_FILE
from xal_ray.registry.sources import SOURCES
from xal_ray.sweep.layout import BEST_NAME, PAGE_NAME, TABLE_NAME, VERDICT_NAME

Command = Literal["run", "sweep", "score"]

# What comes home at the end, first what must be there. The rest stays where the run lies.
OUTPUTS: dict[Command, tuple[str, ...]] = {
    "run": (REPORT_FILE,),
    "sweep": (PAGE_NAME, VERDICT_NAME, TABLE_NAME, BEST_NAME),
    "score": (SCORE_RECORD, SELECTION_FILE),
}
# Where a command leaves its results on this machine.
HOMES: dict[Command, str] = {"run": "runs", "sweep": "sweeps", "score": "scores"}


@dataclass(frozen=True)
class JobRequest:
    """A command for a cluster.

    Attributes:
        command: Which of ours.
        settings: The resolved configuration.
        out: Where the results go: `--out`.
        model: Of `score`: the model's folder or file.
        pool: Of `score`: the packed pool.
        options: Further words of the job's command line.
        run: Of `score`: the run whose images are not chosen again.
        exclude: Of `score`: lists of further images that are not chosen.
        options: Further words of the job's command line.
    """

    command: Command
    settings: Config
    out: Path
    model: Path | None = None
    pool: Path | None = None
    options: tuple[str, ...] = ()
    run: Path | None = None
    exclude: tuple[Path, ...] = ()

    @property
    def name(self) -> str:
        """Return the last part of the place where the results go: how a person calls it."""
        return self.out.name or self.settings.name

    def command_line(self, config: str, model: str | None) -> list[str]:
        """Return the job's command, with the names that configuration and model have there."""
        words = ["python", "-m", "xal_ray.cli", self.command]
        if self.command == "score":
            words += ["--config", config, "--model", str(model), "--pool", str(self.pool)]
            words += ["--run", str(self.run)] if self.run is not None else []
            words += [word for path in self.exclude for word in ("--exclude", str(path))]
        else:
            words.append(config)
        return [*words, "--out", str(self.out), *self.options]

    def with_settings(self, overrides: Iterable[str]) -> JobRequest:
        """Return the same with some keys set.

        Raises:
            ConfigError: A key or a value does not fit.
        """
        tree = self.settings.model_dump(mode="json")
        return replace(self, settings=build_config(tree, overrides, where="the cluster file"))


@dataclass(frozen=True)
class Target:
    """Which cluster, and what becomes of it.

    Attributes:
        cluster_file: The cluster file.
        address: Or the URL of a Jobs API.
        down: Take the cluster down at the end.
        keep_on_failure: But not after a failure.
        detach: Return once the job is submitted.
    """

    cluster_file: Path | None = None
    address: str | None = None
    down: bool = False
    keep_on_failure: bool = False
    detach: bool = False

    @property
    def is_given(self) -> bool:
        """Return whether the command is for a cluster at all."""
        return self.cluster_file is not None or self.address is not None

    def check(self) -> None:
        """Refuse what does not fit together.

        Raises:
            ConfigError: It does not.
        """
        for wrong, what, next_step in (
            (
                self.cluster_file and self.address,
                "--cluster and --address name two clusters",
                "give one of them",
            ),
            (
                (self.down or self.detach) and not self.is_given,
                "--down and --detach need a cluster",
                "add --cluster FILE",
            ),
            (
                self.down and self.address,
                "--down can't take down a cluster that is named by its address",
                "its owner does that",
            ),
            (
                self.down and self.detach,
                "--detach leaves nobody here who would take the cluster down",
                "leave out --down, and later give: xal-ray attach NAME --down",
            ),
            (self.keep_on_failure and not self.down, "--keep-on-failure goes with --down", "add --down"),
        ):
            if wrong:
                raise ConfigError(what, where="the command line", next_step=next_step)


def check_places(request: JobRequest) -> None:
    """Refuse places that only this machine can see.

    An absolute path is taken at its word here: whether the machines share it is seen when the job starts.

    Raises:
        ConfigError: A place that the cluster's machines read or write is relative to this machine's folder.
    """
    if request.command == "score":
        _refuse_local("--pool", request.pool)
    else:
        _refuse_local("pool.path", request.settings.pool_path())
        source = request.settings.pool.source
        reads_files = source.kind is None or SOURCES[source.kind].needs_path
        needed = reads_files and not _is_pool(request.settings.pool_path())
        if needed and source.path is not None:
            _refuse_local("pool.source.path", source.path)
        _refuse_local("labels.from_run", request.settings.labels.from_run)
    _refuse_local("--out", request.out)


def _refuse_local(key: str, path: Path | None) -> None:
    if path is None or is_remote(path) or path.is_absolute():
        return
    set_it = key if key.startswith("--") else f"--set {key}"
    joined = " " if key.startswith("--") else "="
    raise ConfigError(
        "a path of this machine means nothing on a cluster: each machine has a disk of its own",
        expected="s3://... or gs://..., or the absolute path of a file system that all machines share",
        found=str(path),
        where=key,
        next_step=f"{set_it}{joined}s3://BUCKET/{path}",
    )


def _is_pool(path: Path) -> bool:
    try:
        return PoolLayout(path).card.exists()
    except Exception:  # without credentials here, the cluster may still have some
        return False
