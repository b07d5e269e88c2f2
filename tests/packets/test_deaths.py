"""What does a death in the middle of one write leave? All of it or nothing, and no stranger of our own making."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cfbridge.simulator.lab import Lab
from garden_plugin.cell.netlink import Netlink
from garden_plugin.dataplane import plan
from garden_plugin.dataplane.linux.firewall import Firewall
from garden_plugin.dataplane.linux.table import Table
from tests.garden_plugin.dataplane.networks import random_network

pytestmark = pytest.mark.packets
ROOT = Path(__file__).resolve().parents[2]

_KILLS_ITS_PARENT = """#!/bin/sh
kill -9 $PPID
while kill -0 $PPID 2>/dev/null; do sleep 0.01; done
PATH={path} nft "$@"
echo $? > {done}
"""
_WRITES = """
from garden_plugin.cell import nft
lines = ["add table inet halves", "add chain inet halves c"]
lines += [f"add rule inet halves c tcp dport {number} accept" for number in range(10000, 14000)]
nft.run("".join(line.ljust(63) + "\\n" for line in lines))
"""


def test_a_script_is_done_whole_although_who_wrote_it_died_when_nft_began(lab: Lab, tmp_path: Path) -> None:
    """Each line has 64 bytes: wherever a pipe ends, what came through it is a script as well."""
    fake, done = tmp_path / "nft", tmp_path / "done"
    os.mkfifo(done)
    fake.write_text(_KILLS_ITS_PARENT.format(path=os.environ["PATH"], done=done))
    fake.chmod(0o700)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    writer = subprocess.Popen(lab.cell.command(sys.executable, "-c", _WRITES), env=environment)
    assert writer.wait(30) == -signal.SIGKILL
    assert done.read_text() == "0\n"
    assert lab.cell.run("nft", "list", "chain", "inet", "halves", "c").count("dport") == 4000


def test_chains_whose_memory_a_death_took_away_are_not_taken_for_strangers(lab: Lab, tmp_path: Path) -> None:
    dice = random.Random(7)
    before, after = (Firewall().render(*random_network(dice)) for _ in range(2))
    todo = plan.diff(before, after).changes
    assert any(change.key[0] == "chain" for change in todo)
    descriptor = os.open(lab.cell.path, os.O_RDONLY | os.O_CLOEXEC)
    with Netlink(descriptor) as netlink:
        memory = tmp_path / "chains"
        first = Table(netlink.inside, memory, "this boot")
        first.replace(before.values())
        first.close()
        memory.unlink()  # as between `begin` and `keep`
        second = Table(netlink.inside, memory, "this boot")
        second.observe(before)
        second.fill(todo)
        second.observe(after)
        second.close()
    os.close(descriptor)
    assert second.harm == ()
