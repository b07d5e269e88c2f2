"""Does a connection live on? One that one side pushes lines over, until it is cut."""

from __future__ import annotations

import errno
import socket
import threading
import time
from typing import Any


def outcome(error: OSError) -> str:
    if error.errno == errno.ECONNREFUSED or error.errno == errno.ECONNRESET:
        return "refused"
    return "unreachable"


def family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


class Stream:
    """One TCP connection that one side pushes lines over, until it is cut."""

    def __init__(self, address: str, port: int, push: str, every: float, source: str, timeout: float) -> None:
        self._wire = socket.socket(family(address), socket.SOCK_STREAM)
        self._changed = threading.Condition()
        self._received = self._sent = 0
        self._ended = ""
        self._every = every
        self._wire.settimeout(timeout)
        try:
            if source:
                self._wire.bind((source, 0))
            self._wire.connect((address, port))
            if push == "server":
                self._wire.send(b"push %d\n" % int(every * 1000))
        except TimeoutError:
            self._ended = "timeout"
        except OSError as error:
            self._ended = outcome(error)
        if self._ended:
            self._wire.close()
            return
        self._wire.settimeout(None)
        threading.Thread(target=self._read, daemon=True).start()
        if push == "client":
            threading.Thread(target=self._write, daemon=True).start()

    def _end(self, how: str) -> None:
        with self._changed:
            self._ended = self._ended or how
            self._changed.notify_all()

    def _read(self) -> None:
        while not self._ended:
            try:
                received = self._wire.recv(65536)
            except ConnectionResetError:
                return self._end("reset")
            except OSError as error:
                return self._end(outcome(error))
            if not received:
                return self._end("closed")
            with self._changed:
                self._received += received.count(b"\n")
                self._changed.notify_all()
        return None

    def _write(self) -> None:
        while not self._ended:
            try:
                self._wire.send(b"line %d\n" % self._sent)
            except (ConnectionResetError, BrokenPipeError):
                return self._end("reset")
            except OSError as error:
                return self._end(outcome(error))
            self._sent += 1
            time.sleep(self._every)
        return None

    def status(self) -> dict[str, Any]:
        with self._changed:
            return {"alive": not self._ended, "ended": self._ended, "received": self._received, "sent": self._sent}

    def wait(self, more: int, timeout: float) -> bool:
        with self._changed:
            goal = self._received + more
            return self._changed.wait_for(lambda: self._received >= goal or bool(self._ended), timeout) and (
                self._received >= goal
            )

    def close(self) -> None:
        self._end("closed by us")
        try:
            self._wire.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self._wire.close()
