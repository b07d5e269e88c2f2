"""What does a packet meet, seen from one network namespace? The process behind `probe.Probe`: one per namespace.

Reads one JSON command a line from stdin (`{"do": …}`), answers one JSON line. Standard library only. Listeners and
streams live in threads of their own; commands are done one after the other.
"""

from __future__ import annotations

import json
import os
import selectors
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from cfbridge.simulator.app import Server
from cfbridge.simulator.stream import Stream, family, outcome
from cfbridge.simulator.volley import MAGIC, Ear, checksum, encode

_ERROR_QUEUE, _IP_RECVERR, _IPV6_RECVERR = 0x2000, 11, 25
_TCP, _UDP, _ICMP, _ICMP6 = 6, 17, 1, 58


class Prober:
    def __init__(self) -> None:
        self._server = Server({"host": socket.gethostname()})
        threading.Thread(target=self._server.run, daemon=True).start()
        self._streams: dict[str, Stream] = {}
        self._ears: list[Ear] = []

    # --- asking -------------------------------------------------------------------------------------------------------

    def tcp(self, targets: list[list[Any]], source: str, timeout: float) -> list[list[str]]:
        """[outcome, source address that the server saw] for each [address, port], all at once."""
        answers = [["timeout", ""] for _ in targets]
        with selectors.DefaultSelector() as waiting:
            for number, (address, port) in enumerate(targets):
                asking = socket.socket(family(address), socket.SOCK_STREAM)
                asking.setblocking(False)
                _hear_errors(asking)
                try:
                    if source:
                        asking.bind((source, 0))
                    asking.connect((address, port))
                except BlockingIOError:
                    pass
                except OSError as error:
                    answers[number] = [outcome(error), ""]
                    asking.close()
                    continue
                waiting.register(asking, selectors.EVENT_WRITE, [number, b""])
            for key, _ in _until(waiting, timeout):
                self._tcp_step(waiting, key, answers)
        return answers

    def _tcp_step(self, waiting: selectors.BaseSelector, key: selectors.SelectorKey, answers: list[list[str]]) -> None:
        asking, state = key.fileobj, key.data
        assert isinstance(asking, socket.socket)
        number = state[0]
        done = True
        if key.events == selectors.EVENT_WRITE:
            failed = asking.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if told := _error(asking):
                answers[number] = [told, ""]
            elif failed:
                answers[number] = [outcome(OSError(failed, "")), ""]
            else:
                answers[number] = ["open", ""]
                waiting.modify(asking, selectors.EVENT_READ, state)
                done = False
        else:
            try:
                received = asking.recv(4096)
            except OSError:
                received = b""
            state[1] += received
            done = not received or b"\n" in state[1]
            if done:
                answers[number][1] = _seen(state[1])
        if done:
            waiting.unregister(asking)
            asking.close()

    def udp(self, targets: list[list[Any]], source: str, timeout: float) -> list[list[str]]:
        """As `tcp`; "open" is an answer, "refused" an ICMP error."""
        answers = [["timeout", ""] for _ in targets]
        with selectors.DefaultSelector() as waiting:
            for number, (address, port) in enumerate(targets):
                asking = socket.socket(family(address), socket.SOCK_DGRAM)
                asking.setblocking(False)
                _hear_errors(asking)
                try:
                    if source:
                        asking.bind((source, 0))
                    asking.connect((address, port))
                    asking.send(MAGIC)
                except OSError as error:
                    answers[number] = [outcome(error), ""]
                    asking.close()
                    continue
                waiting.register(asking, selectors.EVENT_READ, number)
            for key, _ in _until(waiting, timeout):
                assert isinstance(key.fileobj, socket.socket)
                told = _error(key.fileobj)
                try:
                    answers[key.data] = [told, ""] if told else ["open", _seen(key.fileobj.recv(4096))]
                except OSError as error:
                    answers[key.data] = [outcome(error), ""]
                waiting.unregister(key.fileobj)
                key.fileobj.close()
        return answers

    def ping(self, address: str, source: str, timeout: float) -> str:
        six = ":" in address
        with socket.socket(family(address), socket.SOCK_RAW, _ICMP6 if six else _ICMP) as wire:
            if source:
                wire.bind((source, 0))
            tag = os.urandom(4)
            body = MAGIC + tag
            header = struct.pack("!BBHHH", 128 if six else 8, 0, 0, os.getpid() & 0xFFFF, 1)
            if not six:
                header = header[:2] + checksum(header + body) + header[4:]
            try:
                wire.sendto(header + body, (address, 0))
            except OSError as error:
                return outcome(error)
            ends = time.monotonic() + timeout
            while (left := ends - time.monotonic()) > 0:
                wire.settimeout(left)
                try:
                    received = wire.recv(4096)
                except TimeoutError:
                    break
                except OSError as error:
                    return outcome(error)
                if not six:
                    received = received[(received[0] & 15) * 4 :]
                if tag in received and received[0] in (0, 129):
                    return "open"
                if tag in received and received[0] in (3, 1):
                    return "refused"
        return "timeout"

    # --- being asked --------------------------------------------------------------------------------------------------

    def listen(self, kind: str, port: int, address: str) -> int:
        return self._server.listen(kind, port, address)

    def counted(self) -> dict[str, dict[str, Any]]:
        return {
            name: {"connections": c.connections, "datagrams": c.datagrams, "octets": c.octets, "sources": c.sources}
            for name, c in self._server.counted.items()
        }

    # --- connections that last ----------------------------------------------------------------------------------------

    def open_stream(
        self, name: str, address: str, port: int, push: str, every_ms: int, source: str, timeout: float
    ) -> dict[str, Any]:
        if name in self._streams:
            self._streams[name].close()
        self._streams[name] = Stream(address, port, push, every_ms / 1000, source, timeout)
        return self._streams[name].status()

    def stream(self, name: str) -> dict[str, Any]:
        return self._streams[name].status()

    def await_stream(self, name: str, more: int, timeout: float) -> bool:
        return self._streams[name].wait(more, timeout)

    def close_stream(self, name: str) -> None:
        if stream := self._streams.pop(name, None):
            stream.close()

    # --- single packets -----------------------------------------------------------------------------------------------

    def hear(self) -> None:
        """From now on, note every tagged packet that is delivered here (behind this namespace's own firewall), and
        every refusal of one that was sent from here."""
        if not self._ears:
            self._ears = [
                Ear(each, number) for each in (4, 6) for number in (_TCP, _UDP, _ICMP6 if each == 6 else _ICMP)
            ]

    def heard(self, fence: int, timeout: float) -> dict[str, Any]:
        """What was heard since the last call: at once, or when the packet with tag `fence` has come."""
        arrived: dict[int, str] = {}
        refused: set[int] = set()
        came = fence == 0
        ends = time.monotonic() + timeout
        with selectors.DefaultSelector() as waiting:
            for ear in self._ears:
                waiting.register(ear.wire, selectors.EVENT_READ)
            while True:
                for ear in self._ears:
                    for fate, tag, source in ear.read():
                        if fate == "arrived":
                            arrived[tag] = source
                        else:
                            refused.add(tag)
                if came:
                    break
                came = fence in arrived or fence in refused
                left = ends - time.monotonic()
                if left <= 0:
                    break
                if not came:
                    waiting.select(left)
        return {"arrived": sorted(arrived.items()), "refused": sorted(refused), "fence": came}

    def send(self, packets: list[dict[str, Any]]) -> list[int]:
        """Raw, with whatever source they say; on one CPU, so that they arrive in this order. Tags of those that this
        host's own stack would not send."""
        unsent = []
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {min(before)})
        try:
            with (
                socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as four,
                socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_RAW) as six,
            ):
                for packet in packets:
                    to = packet["destination"]
                    try:
                        (six if ":" in to else four).sendto(encode(packet), (to, 0))
                    except OSError:
                        unsent.append(packet["tag"])
        finally:
            os.sched_setaffinity(0, before)
        return unsent


def _hear_errors(wire: socket.socket) -> None:
    """Else an ICMP error that arrives while the packet is still being sent (in a box it does) is forgotten."""
    if wire.family == socket.AF_INET:
        wire.setsockopt(socket.IPPROTO_IP, _IP_RECVERR, 1)
    else:
        wire.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVERR, 1)


def _error(wire: socket.socket) -> str:
    """What an ICMP error said: nobody knows the way, or somebody (the host, a firewall) refused."""
    try:
        _, ancillary, _, _ = wire.recvmsg(0, 512, _ERROR_QUEUE)
    except OSError:
        return ""
    for level, kind, told in ancillary:
        if (level, kind) in ((socket.IPPROTO_IP, _IP_RECVERR), (socket.IPPROTO_IPV6, _IPV6_RECVERR)):
            number, origin, _, code = struct.unpack_from("=IBBB", told)
            if origin == 1:  # this host's own stack
                return outcome(OSError(number, ""))
            return "unreachable" if code in ((0, 3) if level == socket.IPPROTO_IPV6 else (0, 1)) else "refused"
    return ""


def _seen(line: bytes) -> str:
    try:
        return str(json.loads(line)["source"])
    except (ValueError, KeyError, TypeError):
        return ""


def _until(waiting: selectors.BaseSelector, timeout: float) -> Iterator[tuple[selectors.SelectorKey, int]]:
    """Events until nothing is registered any more or the time is over; what is left over is closed."""
    ends = time.monotonic() + timeout
    while waiting.get_map() and (left := ends - time.monotonic()) > 0:
        yield from waiting.select(left)
    for key in list(waiting.get_map().values()):
        waiting.unregister(key.fileobj)
        assert isinstance(key.fileobj, socket.socket)
        key.fileobj.close()


def main() -> None:
    prober = Prober()
    print("{}", flush=True)
    for line in sys.stdin:
        command = json.loads(line)
        act: Callable[..., Any] = getattr(prober, command.pop("do"))
        try:
            answer = {"ok": act(**command)}
        except Exception as error:  # told to whoever asked
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
