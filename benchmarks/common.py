"""What the benchmarks share: interleaved timing, memory of a process tree, tables of ratios, JSON."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
REAL_MANIFEST = Path(__file__).resolve().parents[2] / "shared" / "data" / "brain_tumor_t1ce" / "manifest.csv"
PACKAGES = ("torch", "torchvision", "ray", "pyarrow", "numpy", "grad-cam", "pillow")


def arguments(name: str, description: str) -> argparse.ArgumentParser:
    """A parser with what every benchmark takes."""
    parser = argparse.ArgumentParser(
        prog=f"python benchmarks/{name}.py",
        description=description,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("--json", type=Path, default=RESULTS / f"{name}.json", help="where the results go")
    parser.add_argument("--smoke", action="store_true", help="smallest sizes: does it run at all?")
    return parser


def interleaved_cpu_s(functions: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """CPU seconds of each function, all of them in turn, `repeats` times, after one round of warm-up.

    CPU time, and in turn, because shared machines change their speed from minute to minute.
    """
    for function in functions.values():
        function()
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            begin = time.process_time()
            function()
            seconds[name].append(time.process_time() - begin)
    return seconds


def median_ratio(ours: Sequence[float], base: Sequence[float]) -> float:
    """The median over repeats of ours / base, each pair from the same turn."""
    return statistics.median(one / other for one, other in zip(ours, base, strict=True))


def peak_above_now_mb(function: Callable[[], Any]) -> float:
    """How far a function drives this process's resident memory above where it stands before (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
    before = status_mb("VmHWM")
    function()
    return status_mb("VmHWM") - before


def status_mb(field: str) -> float:
    """Memory of this process alone: `ru_maxrss` starts from that of the process that started it."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1024
    raise ValueError(field)


def tree_memory_mb(root: int) -> float:
    """Memory of a process and all its descendants now, shared pages counted once (PSS)."""
    total = 0
    for pid in _tree(root):
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue  # it has ended
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total / 1024


def tree_cpu_s(root: int) -> float:
    """CPU seconds that a process and its living descendants have used, with those of children that ended."""
    ticks = 0
    for pid in _tree(root):
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        ticks += sum(int(field) for field in fields[11:15])
    return ticks / os.sysconf("SC_CLK_TCK")


def _tree(root: int) -> list[int]:
    """A process and its descendants. Ray's processes are adopted by its raylet, which is a child of ours."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            except (OSError, IndexError):
                continue
            children.setdefault(parent, []).append(int(entry.name))
    found, waiting = [], [root]
    while waiting:
        pid = waiting.pop()
        found.append(pid)
        waiting += children.get(pid, [])
    return found


def publish(
    args: argparse.Namespace, title: str, rows: Sequence[Mapping[str, Any]], notes: Sequence[str] = ()
) -> None:
    """Print a table with the machine, versions and command, and write all of it as JSON."""
    about = {
        "command": "python " + " ".join(sys.argv),
        "machine": machine(),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES}
        | {"python": platform.python_version()},
    }
    print(f"\n## {title}\n")
    print(f"`{about['command']}` on {about['machine']}")
    print(", ".join(f"{name} {version}" for name, version in about["versions"].items()) + "\n")
    print(as_table(rows))
    for note in notes:
        print(f"- {note}")
    args.json.parent.mkdir(parents=True, exist_ok=True)
    args.json.write_text(
        json.dumps({"title": title, **about, "rows": list(rows), "notes": list(notes)}, indent=2) + "\n"
    )


def as_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as a Markdown table; the columns are those of the first row."""
    columns = list(rows[0])
    texts = [columns, *([_text(row.get(column)) for column in columns] for row in rows)]
    widths = [max(len(line[number]) for line in texts) for number in range(len(columns))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |"
        for line in texts
    ]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


def machine() -> str:
    """Processor, cores and GPUs, without any name of the host."""
    model, flags = "unknown processor", ""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
        elif line.startswith("flags"):
            flags = line
            break
    features = [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if name in flags.split()]
    memory_gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1024**3
    import torch

    gpus = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    cores = f"{os.cpu_count()} cores ({', '.join(features)})"
    return f"{model}, {cores}, {memory_gb:.0f} GiB, GPUs: {', '.join(gpus) or 'none'}"


def _text(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
