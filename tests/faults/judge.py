"""Is all as it should be after somebody died? Asked of packets, of the kernel, of files, of the API, and of the logs.

Each answer is a list of sentences: what is wrong. None is well.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterable
from pathlib import Path

from cfbridge.demo.installation import VM_ADDRESS, until
from cfbridge.simulator.garden import Container
from cfbridge.simulator.probe import Packet, ProbeFailed
from garden_plugin.cell.spool import hash_of
from garden_plugin.dataplane.cell import device_name
from tests.faults.storm import FaultyBox, Steady, Storm
from tests.scenarios.stage import leases

_FENCE = 0x7F000000
_VM_ROUTER = VM_ADDRESS.rpartition(".")[0] + ".1"
"""Held by the cell for the machine's sake."""
_POOLS = re.compile(r"(?<![-.\d])(?:10\.24[0-3]|172\.20)\.\d+\.\d+(?![-/.\d])")
"""An address of a container pool; no prefix, no range."""


async def packets(steady: Steady, number: int) -> list[str]:
    """Not one of the refused packets has arrived, and both streams live."""
    wrong = []
    box = steady.box
    fence = Packet(steady.fencer.address, steady.server.address, 17, 5000, tag=_FENCE + number)
    await asyncio.to_thread(box.probe(steady.fencer).send, [fence])
    try:
        arrived, _ = await asyncio.to_thread(box.probe(steady.server).heard, fence.tag, 10.0)
        if passed := [tag for tag, source in arrived.items() if source == steady.stranger.address]:
            wrong.append(f"{len(passed)} refused packets passed")
    except ProbeFailed as failed:
        wrong.append(f"an allowed datagram did not come: {failed}")
    if not await steady.streams_live():
        ended = {name: box.probe(steady.client).stream(name).ended for name in ("mine", "theirs")}
        wrong.append(f"an allowed stream does not flow: {ended}")
    if steady.flood.poll() is not None:
        wrong.append("the stranger sends no more: nothing was tested")
    return wrong


async def state(storm: Storm, seconds: float) -> list[str]:
    """What is held is what is there: in the store, in the kernel, in files. Within `seconds`."""
    shown: list[str] = []

    async def well() -> bool:
        shown[:] = [*await _leases(storm), *await asyncio.to_thread(_kernel, storm), *_files(storm)]
        return not shown

    await until(well, seconds, 0.2)
    return shown


def _living(box: FaultyBox) -> dict[str, Container]:
    return {handle: each for handle, each in box.diego.guardian.containers.items() if each.address}


def _of_bridge(containers: Iterable[Container]) -> dict[str, str]:
    """Address → handle, without health checks, which the cell serves alone."""
    return {each.address: each.handle for each in containers if not each.address.startswith("169.254.")}


def _difference(what: str, there: Iterable[str], wanted: Iterable[str]) -> list[str]:
    there, wanted = {*there}, {*wanted}
    if there == wanted:
        return []
    return [
        f"{what}: {len(there - wanted)} too many {sorted(there - wanted)[:3]}, missing {sorted(wanted - there)[:3]}"
    ]


async def _leases(storm: Storm) -> list[str]:
    living = _of_bridge(_living(storm.box).values())
    held = await leases(storm.box)
    return _difference("leases", map(str, held.items()), map(str, living.items()))


def _kernel(storm: Storm) -> list[str]:
    box, cell = storm.box, storm.box.lab.cell
    living = _living(box)
    addresses = _of_bridge(living.values()).keys()
    routes = [route["dst"] for route in json.loads(cell.run("ip", "-j", "-4", "route", "show", "table", "7712"))]
    devices = [link["ifname"] for link in json.loads(cell.run("ip", "-j", "link")) if link["ifname"].startswith("cf-")]
    table = cell.run("nft", "-s", "list", "table", "inet", "cfbridge")
    named = {*_POOLS.findall(table)} - {*storm.machines, _VM_ROUTER}
    tracked = {*_POOLS.findall(cell.run("conntrack", "-L"))}
    former = {each.address for each in storm.left.values()} - {each.address for each in living.values()}
    return [
        *_difference("routes", routes, [*addresses, *storm.machines]),
        *_difference("links", devices, map(device_name, living)),
        *_difference("addresses in our table", named, addresses),
        *([f"connections of former holders are tracked: {sorted(tracked & former)[:3]}"] if tracked & former else []),
    ]


def _files(storm: Storm) -> list[str]:
    box = storm.box
    wanted = [*map(hash_of, _living(box))]
    agent = box.directory / "agent"
    return [
        *_difference("records", _names(agent / "ports"), wanted),
        *_difference("held namespaces", _names(agent / "netns"), wanted),
        *_difference(
            "spooled ends",
            [*_names(agent / "detached"), *_names(agent / "spool"), *_names(box.directory / "spool")],
            (),
        ),
    ]


def _names(directory: Path) -> list[str]:
    return [each.name for each in directory.iterdir()] if directory.exists() else []


class Logs:
    """What the daemons said that they must not say."""

    def __init__(self, box: FaultyBox) -> None:
        self._box = box
        self._read = {"agent": 0, "bridge": 0}
        self.forget()

    def forget(self) -> None:
        for role in self._read:
            self._read[role] = len(self._box.log(role))

    def wrong(self, *, adopting: bool = False) -> list[str]:
        """Since it was asked last. While an agent adopts what a dead one left half done, it finds what it did not
        expect; afterwards it must not."""
        found = []
        for role, start in self._read.items():
            said = self._box.log(role)[start:]
            for line in said.splitlines():
                try:
                    entry = json.loads(line)
                except ValueError:
                    found.append(f"the {role} said what is no log: {line[:200]}")
                    continue
                if "exception" in entry or entry.get("event") == "bug":
                    found.append(f"the {role} met a bug: {line[:300]}")
                elif entry.get("event") == "drift" and not adopting:
                    found.append(f"the {role} found what it did not believe: {str(entry.get('what'))[:300]}")
        self.forget()
        return found
