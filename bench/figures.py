"""What is a figure? A name, a value with its unit, and a ratio to a peer or floor measured in the same run."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Figure:
    name: str
    value: float
    unit: str
    ratio: float | None = None
    """Of `value` to what `to` names."""
    to: str = ""
    note: str = ""


def percentile(samples: Sequence[float], share: float) -> float:
    """The sample that `share` (0 … 1) of the samples do not exceed."""
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def median(samples: Sequence[float]) -> float:
    return statistics.median(samples)


def cpu_seconds(pid: int) -> float:
    """What all threads of a process used so far, in user's and in kernel's mode."""
    return (
        sum(int(Path(thread, "schedstat").read_text().split()[0]) for thread in Path(f"/proc/{pid}/task").iterdir())
        / 1e9
    )


def most_resident(pid: int) -> float:
    """MiB at most so far."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def machine() -> dict[str, object]:
    """What the figures were measured on."""
    return {
        "kernel": platform.release(),
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "load_before": round(os.getloadavg()[0], 2),
    }


def table(figures: Sequence[Figure]) -> str:
    """Figures as aligned columns."""
    rows = [("figure", "value", "unit", "ratio", "to", "note")]
    for each in figures:
        ratio = "" if each.ratio is None else f"{each.ratio:.2f}"
        rows.append((each.name, f"{each.value:.3f}", each.unit, ratio, each.to, each.note))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


def write(figures: Sequence[Figure], measured_on: dict[str, object], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {"machine": measured_on, "figures": [asdict(each) for each in figures]}
    path.write_text(json.dumps(document, indent=2) + "\n")
