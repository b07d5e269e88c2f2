"""What does a foundation in a box stand on? Network namespaces of one run, wired like a small data centre.

router (gorouter host) 192.0.2.20 ─┐ bridge br0
cell up0               192.0.2.10 ─┴─ 192.0.2.1 fw 198.51.100.1 ── 198.51.100.10 ext
  └─ tap-… ── VM          (IPv6: 2001:db8::20, ::10, ::1; 2001:db8:e::1, ::10)

Every namespace says whose it is (`simulator.runs`). Nothing outside these namespaces is touched.
"""

from __future__ import annotations

import contextlib
import ctypes
import ipaddress
import json
import os
import subprocess
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cfbridge.simulator import runs
from cfbridge.simulator.probe import Probe

CELL, CELL6 = "192.0.2.10", "2001:db8::10"
FW, FW6 = "192.0.2.1", "2001:db8::1"
ROUTER, ROUTER6 = "192.0.2.20", "2001:db8::20"
EXT, EXT6 = "198.51.100.10", "2001:db8:e::10"
DNS = "169.254.0.53"
UPLINK = "up0"

_CLONE_NEWNET, _MS_BIND = 0x40000000, 0x1000
_libc = ctypes.CDLL(None, use_errno=True)

_QUIET = """
net.ipv4.icmp_ratelimit=0
net.ipv6.icmp.ratelimit=0
net.ipv6.conf.default.accept_dad=0
net.ipv6.conf.default.accept_ra=0
"""
"""Beyond the kernel's limit a reject is a drop (decisions 11)."""

# The kernel itself says "no route" five times and then once a second, and that limit belongs to the whole machine.
_FIREWALL = """
table inet lab {
  set seen4 { type ipv4_addr; flags dynamic; }
  set seen6 { type ipv6_addr; flags dynamic; }
  set blocked4 { type ipv4_addr; }
  set blocked6 { type ipv6_addr; }
  chain unrouted { type filter hook prerouting priority filter; policy accept;
    meta nfproto ipv6 fib daddr type unreachable reject with icmpx no-route
    meta nfproto ipv4 meta pkttype host fib daddr oif missing reject with icmpx no-route
  }
  chain forward { type filter hook forward priority filter; policy accept;
    iifname "br0" update @seen4 { ip saddr }
    iifname "br0" update @seen6 { ip6 saddr }
    iifname "br0" ip saddr @blocked4 drop
    iifname "br0" ip6 saddr @blocked6 drop
  }
}
"""


@dataclass(frozen=True, slots=True)
class Namespace:
    name: str

    @property
    def path(self) -> str:
        return str(runs.NETNS / self.name)

    def command(self, *arguments: str) -> list[str]:
        """An argument list that runs `arguments` in this network namespace (the process becomes it: same pid)."""
        return ["nsenter", f"--net={self.path}", "--", *arguments]

    def run(self, *arguments: str, stdin: str = "") -> str:
        """Run to the end; stdout. Raises CalledProcessError with stderr in it."""
        done = subprocess.run(self.command(*arguments), input=stdin, text=True, capture_output=True, timeout=30)
        if done.returncode:
            raise RuntimeError(f"{' '.join(arguments)} in {self.name}: {done.stderr.strip() or done.returncode}")
        return done.stdout

    def ip(self, script: str) -> None:
        """Lines of `ip` commands, in one process."""
        self.run("ip", "-batch", "-", stdin=script)

    def sysctl(self, script: str) -> None:
        """Lines `name=value`; names that this kernel has not are passed over."""
        _in_thread(lambda: _write_sysctls(script), self.path)


class Lab:
    """One box. `close()` removes all of it; use it as a context manager."""

    def __init__(self) -> None:
        runs.reap()
        self.run_id = runs.new_id()
        self._namespaces: dict[str, Namespace] = {}
        self._probes: dict[str, Probe] = {}
        try:
            self.cell = self.namespace("cell")
            self.fw = self.namespace("fw")
            self.ext = self.namespace("ext")
            self.router = self.namespace("router")
            self._wire()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Lab:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def namespace(self, label: str) -> Namespace:
        """A new, empty one, with its loopback up."""
        made = Namespace(f"{runs.PREFIX}{self.run_id}-{label}")
        _make(made.path)
        self._namespaces[label] = made
        made.sysctl(_QUIET)
        made.ip("link set lo up\n")
        return made

    def place(self, label: str) -> Namespace:
        """One that is there."""
        return self._namespaces[label]

    def discard(self, label: str) -> None:
        """A namespace dies, with everything in it."""
        if probe := self._probes.pop(label, None):
            probe.close()
        runs.unmake(Path(self._namespaces.pop(label).path))

    def probe(self, label: str) -> Probe:
        """The one prober of a namespace, started when it is first needed."""
        if label not in self._probes:
            self._probes[label] = Probe(self._namespaces[label].path)
        return self._probes[label]

    def _wire(self) -> None:
        self.fw.ip(
            f"""
            link add br0 type bridge forward_delay 0
            link add {UPLINK} netns {self.cell.name} type veth peer name p-cell
            link add eth0 netns {self.router.name} type veth peer name p-router
            link add eth0 netns {self.ext.name} type veth peer name e0
            link set p-cell master br0 up
            link set p-router master br0 up
            address add {FW}/24 dev br0
            address add {FW6}/64 dev br0 nodad
            link set br0 up
            address add 198.51.100.1/24 dev e0
            address add 2001:db8:e::1/64 dev e0 nodad
            link set e0 up
            route add unreachable 0.0.0.0/0
            route add unreachable ::/0
            """
        )
        self.fw.sysctl("net.ipv4.ip_forward=1\nnet.ipv6.conf.all.forwarding=1")
        self.fw.run("nft", "-f", "-", stdin=_FIREWALL)
        for where, device, four, six in (
            (self.cell, UPLINK, f"{CELL}/24", f"{CELL6}/64"),
            (self.router, "eth0", f"{ROUTER}/24", f"{ROUTER6}/64"),
        ):
            where.ip(
                f"""
                address add {four} dev {device}
                address add {six} dev {device} nodad
                link set {device} up
                route add default via {FW}
                route add default via {FW6}
                """
            )
        self.cell.ip(f"address add {DNS}/32 dev lo\n")
        self.ext.ip(
            f"""
            address add {EXT}/24 dev eth0
            address add {EXT6}/64 dev eth0 nodad
            link set eth0 up
            route add default via 198.51.100.1
            route add default via 2001:db8:e::1
            """
        )

    def vm(self, label: str, device: str, address: str, gateway: str, address6: str = "") -> Namespace:
        """A guest with its own subnet and real ARP, as a hypervisor would leave it: `device` on the cell is there and
        nothing is known of it. `address` comes with its prefix length; with `address6` the router is fe80::1."""
        guest = self.namespace(label)
        self.cell.ip(f"link add {device} type veth peer name eth0 netns {guest.name}\nlink set {device} up\n")
        six = f"address add {address6} dev eth0 nodad\nroute add default via fe80::1 dev eth0\n" if address6 else ""
        guest.ip(f"address add {address} dev eth0\nlink set eth0 up\nroute add default via {gateway}\n{six}")
        return guest

    # --- the physical firewall ----------------------------------------------------------------------------------------

    def announce(self, prefix: str) -> None:
        """The data centre learns that the cell has this prefix, as for a routed org."""
        via = CELL6 if ":" in prefix else CELL
        self.fw.ip(f"route replace {prefix} via {via}\n")

    def withdraw(self, prefix: str) -> None:
        with contextlib.suppress(RuntimeError):
            self.fw.ip(f"route del {prefix}\n")

    def seen(self) -> frozenset[str]:
        """Source addresses of packets from the segment that went through the firewall, since `forget`."""
        found: set[str] = set()
        for family in "46":
            answer = json.loads(self.fw.run("nft", "-j", "list", "set", "inet", "lab", f"seen{family}"))
            for each in answer["nftables"]:
                found.update(each.get("set", {}).get("elem", ()))
        return frozenset(found)

    def forget(self) -> None:
        self.fw.run("nft", "-f", "-", stdin="flush set inet lab seen4\nflush set inet lab seen6\n")

    def block(self, address: str) -> None:
        """As a person at the physical firewall would: by source address."""
        self.fw.run("nft", "-f", "-", stdin=f"add element inet lab {_blocked(address)} {{ {address} }}\n")

    def unblock(self, address: str) -> None:
        self.fw.run("nft", "-f", "-", stdin=f"delete element inet lab {_blocked(address)} {{ {address} }}\n")

    # --- the end ------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """All of it, whatever state it is in. A process that still lives in a namespace keeps the namespace's devices
        alive, not its name."""
        for probe in self._probes.values():
            probe.close()
        self._probes.clear()
        for namespace in self._namespaces.values():
            runs.unmake(Path(namespace.path))
        self._namespaces.clear()


def _blocked(address: str) -> str:
    return f"blocked{ipaddress.ip_address(address).version}"


# --- namespaces -------------------------------------------------------------------------------------------------------


def _make(path: str) -> None:
    runs.NETNS.mkdir(mode=0o755, exist_ok=True)
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDONLY, 0))

    def unshare() -> None:
        _must(_libc.unshare(_CLONE_NEWNET), "unshare")
        own = f"/proc/self/task/{threading.get_native_id()}/ns/net"
        _must(_libc.mount(own.encode(), path.encode(), b"none", _MS_BIND, None), "mount")

    try:
        _in_thread(unshare)
    except BaseException:
        Path(path).unlink()
        raise


def _must(answer: int, what: str) -> None:
    if answer:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")


def _in_thread(act: Callable[[], None], netns: str = "") -> None:
    """In a thread that ends with it, since it changes the thread's namespace."""
    failure: list[BaseException] = []

    def enter() -> None:
        try:
            if netns:
                descriptor = os.open(netns, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    _must(_libc.setns(descriptor, _CLONE_NEWNET), "setns")
                finally:
                    os.close(descriptor)
            act()
        except BaseException as error:  # carried to the caller's thread
            failure.append(error)

    thread = threading.Thread(target=enter, name="lab")
    thread.start()
    thread.join()
    if failure:
        raise failure[0]


def _write_sysctls(script: str) -> None:
    for line in script.split():
        name, _, value = line.partition("=")
        path = Path("/proc/sys", name.replace(".", "/"))
        if path.exists():
            path.write_text(value)
