"""What would an iptables dataplane of the usual shape have in the kernel? The peer that figures are compared with.

FORWARD ─> vpa--<stamp>  a MARK rule per source container, then N `-d … --dport … -m mark … ACCEPT`
        ─> overlay--<c>  per container: established ACCEPT, else REJECT          (the policy chain comes first)

A change of one policy is a fresh chain with every rule, put in front of the old one, which then goes.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator, Sequence

from bench.cells import PORT, address

BACKENDS = ("iptables-nft", "iptables-legacy")
Rule = tuple[int, int, int]
"""Source container, destination container, port."""


def installed() -> tuple[str, ...]:
    return tuple(each for each in BACKENDS if shutil.which(f"{each}-restore"))


def restore(backend: str, script: str, *options: str) -> None:
    """In the caller's network namespace."""
    command = [f"{backend}-restore", *options]
    done = subprocess.run(command, input=script, text=True, capture_output=True, timeout=120)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()[:500]}")


def whole(count: int, rules: Sequence[Rule], chain: str) -> str:
    """Everything that stands on a cell with so many containers."""
    lines = ["*filter", ":INPUT ACCEPT [0:0]", ":FORWARD ACCEPT [0:0]", ":OUTPUT ACCEPT [0:0]", f":{chain} - [0:0]"]
    lines += [f":overlay--c{n} - [0:0]" for n in range(count)]
    lines += _policies(count, rules, chain)
    lines.append(f"-A FORWARD -j {chain}")
    for n in range(count):
        to = f"-A overlay--c{n} -d {address(n)}/32"
        lines.append(f"-A FORWARD -j overlay--c{n}")
        lines.append(f"{to} -m state --state RELATED,ESTABLISHED -j ACCEPT")
        lines.append(f"{to} -m mark --mark 0xffff0000 -j ACCEPT")
        lines.append(f"{to} -j REJECT --reject-with icmp-port-unreachable")
    return "\n".join([*lines, "COMMIT", ""])


def swap(count: int, rules: Sequence[Rule], old: str, new: str) -> str:
    """From one set of policies to another, without a gap."""
    lines = ["*filter", f":{new} - [0:0]", *_policies(count, rules, new)]
    lines += [f"-I FORWARD 1 -j {new}", f"-D FORWARD -j {old}", f"-F {old}", f"-X {old}"]
    return "\n".join([*lines, "COMMIT", ""])


def _policies(count: int, rules: Sequence[Rule], chain: str) -> Iterator[str]:
    for n in range(count):
        comment = f"-m comment --comment src:app{n}"
        yield f"-A {chain} -s {address(n)}/32 {comment} -j MARK --set-xmark 0x{n + 1:x}/0xffffffff"
    for source, destination, port in rules:
        who = f"-d {address(destination)}/32 -p tcp -m tcp --dport {port}:{port} -m mark --mark 0x{source + 1:x}"
        yield f"-A {chain} {who} -m comment --comment src:app{source}_dst:app{destination} -j ACCEPT"


def rules(pairs: Sequence[tuple[int, int]]) -> list[Rule]:
    return [(source, destination, PORT) for source, destination in pairs]
