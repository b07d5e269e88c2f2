"""What happens to a packet from here to there? Answers in milliseconds, from one long-lived process per namespace.

A single packet is judged without waiting: a batch goes out in order, a fence that is known to pass goes last, and
what has not arrived before the fence was dropped (decisions 23).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SENT_AGAIN_SECONDS = 3.0
"""A handshake whose first packet was lost, or waited for a neighbour, is sent again after one second."""


@dataclass(frozen=True, slots=True)
class Outcome:
    result: str
    """open, refused, timeout or unreachable."""
    seen: str = ""
    """The source address that the server saw."""

    def __bool__(self) -> bool:
        return self.result == "open"


@dataclass(frozen=True, slots=True)
class StreamStatus:
    alive: bool
    ended: str
    """Empty while it lives; then reset, closed, timeout, refused or unreachable."""
    received: int
    """Lines."""
    sent: int


@dataclass(frozen=True, slots=True)
class Packet:
    """One packet to be sent raw: a TCP SYN, a UDP datagram, an ICMP message (type and code)."""

    source: str
    destination: str
    protocol: int
    destination_port: int = 0
    source_port: int = 40000
    icmp_type: int = 8
    icmp_code: int = 0
    tag: int = 0
    """Unique within a volley; 0 = given by it."""


@dataclass(frozen=True, slots=True)
class Fate:
    result: str
    """passed, refused or dropped."""
    by: str = ""
    """Which of the receivers it arrived at."""
    seen: str = ""
    """The source address it arrived with."""


class ProbeFailed(Exception):  # noqa: N818 - says what happened
    """The probe itself went wrong: nothing is known about the packet."""


class Probe:
    """One network namespace's prober, started at once. Used from any thread; one command at a time."""

    def __init__(self, netns: str) -> None:
        command = ["nsenter", f"--net={netns}", "--", sys.executable, "-S", "-m", "cfbridge.simulator.prober"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd="/"
        )
        self._lock = threading.Lock()
        self._ready = False
        self._hearing = False

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()

    def _do(self, what: str, **arguments: Any) -> Any:
        with self._lock:
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            try:
                if not self._ready:
                    self._process.stdout.readline()
                    self._ready = True
                self._process.stdin.write(json.dumps({"do": what, **arguments}) + "\n")
                self._process.stdin.flush()
                line = self._process.stdout.readline()
            except OSError as error:
                raise ProbeFailed(f"{what}: the prober is gone: {error}") from error
        if not line:
            raise ProbeFailed(f"{what}: the prober ended with {self._process.poll()}")
        answer = json.loads(line)
        if "error" in answer:
            raise ProbeFailed(f"{what}: {answer['error']}")
        return answer["ok"]

    def tcp(self, address: str, port: int, *, source: str = "", timeout: float = SENT_AGAIN_SECONDS) -> Outcome:
        return self.tcp_many([(address, port)], source=source, timeout=timeout)[0]

    def tcp_many(
        self, targets: Iterable[tuple[str, int]], *, source: str = "", timeout: float = SENT_AGAIN_SECONDS
    ) -> list[Outcome]:
        """All at once, so that many timeouts cost one."""
        answers = self._do("tcp", targets=list(targets), source=source, timeout=timeout)
        return [Outcome(*answer) for answer in answers]

    def udp(self, address: str, port: int, *, source: str = "", timeout: float = 1.0) -> Outcome:
        return self.udp_many([(address, port)], source=source, timeout=timeout)[0]

    def udp_many(self, targets: Iterable[tuple[str, int]], *, source: str = "", timeout: float = 1.0) -> list[Outcome]:
        answers = self._do("udp", targets=list(targets), source=source, timeout=timeout)
        return [Outcome(*answer) for answer in answers]

    def ping(self, address: str, *, source: str = "", timeout: float = 1.0) -> Outcome:
        return Outcome(self._do("ping", address=address, source=source, timeout=timeout))

    def listen(self, kind: str, port: int, address: str = "::") -> int:
        """A `tcp` or `udp` server that answers with the source it saw; see `app`. The port (0 = any free one)."""
        return int(self._do("listen", kind=kind, port=port, address=address))

    def counted(self) -> dict[str, dict[str, Any]]:
        """By listener, e.g. `tcp:8080`: connections, datagrams, octets, sources."""
        answer: dict[str, dict[str, Any]] = self._do("counted")
        return answer

    def open_stream(
        self,
        name: str,
        address: str,
        port: int,
        *,
        push: str = "client",
        every_ms: int = 20,
        source: str = "",
        timeout: float = 5.0,
    ) -> StreamStatus:
        """A connection that lasts: the `client` sends lines and has them echoed, or the `server` pushes, or `none`."""
        arguments = {"name": name, "address": address, "port": port, "push": push, "every_ms": every_ms}
        return StreamStatus(**self._do("open_stream", **arguments, source=source, timeout=timeout))

    def stream(self, name: str) -> StreamStatus:
        return StreamStatus(**self._do("stream", name=name))

    def flows(self, name: str, *, lines: int = 3, timeout: float = 5.0) -> bool:
        """Whether that many more lines come through in time."""
        return bool(self._do("await_stream", name=name, more=lines, timeout=timeout))

    def close_stream(self, name: str) -> None:
        self._do("close_stream", name=name)

    # --- volleys ------------------------------------------------------------------------------------------------------

    def hear(self) -> None:
        """Begin to note tagged packets; what came before is not heard."""
        if not self._hearing:
            self._do("hear")
            self._hearing = True

    def heard(self, fence: int = 0, timeout: float = 2.0) -> tuple[dict[int, str], frozenset[int]]:
        """({tag: source}, tags refused) since the last call; with `fence`, once that one has come."""
        answer = self._do("heard", fence=fence, timeout=timeout)
        if not answer["fence"]:
            raise ProbeFailed(f"fence {fence} did not come")
        return dict(answer["arrived"]), frozenset(answer["refused"])

    def send(self, packets: Sequence[Packet]) -> frozenset[int]:
        """Raw, in order. Tags of those that the sending host itself would not send."""
        return frozenset(self._do("send", packets=[asdict(packet) for packet in packets]))


_FENCE = 0x7F000000


def volley(
    sender: Probe, packets: Sequence[Packet], receivers: Mapping[str, Probe], fences: Mapping[str, Packet]
) -> list[Fate]:
    """The fate of each packet, in order. `fences` holds for each receiver one packet that is known to reach it; it is
    sent last. Raises ProbeFailed when a fence does not come, since then nothing is known."""
    for probe in (sender, *receivers.values()):
        probe.hear()
        probe.heard()
    tagged = [replace(packet, tag=packet.tag or number) for number, packet in enumerate(packets, 1)]
    closing = {name: replace(fences[name], tag=_FENCE + number) for number, name in enumerate(receivers)}
    sender.send([*tagged, *closing.values()])
    arrived: dict[int, tuple[str, str]] = {}
    for name, probe in receivers.items():
        for tag, source in probe.heard(closing[name].tag)[0].items():
            arrived[tag] = (name, source)
    _, refused = sender.heard()
    return [
        Fate("passed", *arrived[packet.tag])
        if packet.tag in arrived
        else Fate("refused" if packet.tag in refused else "dropped")
        for packet in tagged
    ]
