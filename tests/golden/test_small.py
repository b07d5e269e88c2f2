"""Does a small foundation render to the very words that were read and found good?"""

from __future__ import annotations

import pytest

from cfbridge.simulator.lab import Lab
from tests.golden import small


@pytest.mark.parametrize("name", ["small.nft", "small.ip"])
def test_a_small_foundation_is_rendered_word_for_word(name: str) -> None:
    assert small.rendered()[name] == (small.HERE / name).read_text(), "meant? then: python -m tests.golden.small"


@pytest.mark.packets
def test_the_kernel_takes_those_words() -> None:
    with Lab() as lab:
        lab.cell.run("nft", "-f", str(small.HERE / "small.nft"))
        assert "tap-db" in lab.cell.run("nft", "list", "table", "arp", "cfbridge")
