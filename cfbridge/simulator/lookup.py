"""Does a DNS server answer? `python -m cfbridge.simulator.lookup SERVER NAME [--tcp]` prints `answered` or what not."""

from __future__ import annotations

import socket
import sys

from cfbridge.simulator import dns

SECONDS = 2.0


def look_up(server: str, name: str, *, tcp: bool) -> str:
    """`answered` only when the reply is to this question and carries an address."""
    question = dns.query(name, number=4711)
    kind = socket.SOCK_STREAM if tcp else socket.SOCK_DGRAM
    try:
        with socket.socket(socket.AF_INET, kind) as asking:
            asking.settimeout(SECONDS)
            asking.connect((server, 53))
            if tcp:
                asking.sendall(len(question).to_bytes(2, "big") + question)
                reply = asking.recv(4096)[2:]
            else:
                asking.send(question)
                reply = asking.recv(4096)
    except TimeoutError:
        return "timeout"
    except OSError as error:
        return "refused" if isinstance(error, ConnectionRefusedError) else f"failed: {error.strerror}"
    answered = reply[:2] == question[:2] and int.from_bytes(reply[6:8], "big") >= 1
    return "answered" if answered else "no such name"


if __name__ == "__main__":
    print(look_up(sys.argv[1], sys.argv[2], tcp="--tcp" in sys.argv))
