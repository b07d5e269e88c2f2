"""Do the benchmarks run? In small, since what they measure is not judged here: only that each measures what it says."""

from __future__ import annotations

import importlib
import json
import os
from pathlib import Path

import pytest

from bench import figures
from bench.__main__ import BENCHMARKS

pytestmark = pytest.mark.packets


def _ours() -> set[str]:
    """Namespaces of this process and its children's boxes."""
    there = Path("/run/netns")
    return {path.name for path in there.glob(f"cfb-{os.getpid()}.*")} if there.is_dir() else set()


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_benchmark_yields_its_figures_and_leaves_nothing(name: str, tmp_path: Path) -> None:
    before = _ours()
    found = importlib.import_module(f"bench.{name}").run(quick=True)
    assert _ours() == before
    assert found
    assert all(each.name and each.value >= 0 and each.unit for each in found)
    assert any(each.name.startswith(name) for each in found)
    assert len({each.name for each in found}) == len(found)
    assert any(each.ratio is not None and each.to for each in found)
    written = tmp_path / "results" / "latest.json"
    figures.write(found, figures.machine(), written)
    assert [each["name"] for each in json.loads(written.read_text())["figures"]] == [each.name for each in found]
