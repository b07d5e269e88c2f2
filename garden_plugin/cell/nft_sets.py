"""How do elements of nftables sets look, in bytes and in words?

An element is bytes, as the kernel wants it: key → None (set), data (map) or a chain's name (verdict map). The key of an
interval is its first and its last value, both included, one after the other.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from egress.values import PackedRange

SIZES = {
    "ipv4_addr": 4,
    "ipv6_addr": 16,
    "ether_addr": 6,
    "mark": 4,
    "inet_proto": 1,
    "inet_service": 2,
    "ifname": 16,
}
TABLE = "inet cfbridge"

Elements = Mapping[bytes, bytes | None]


@dataclass(frozen=True, slots=True)
class Shape:
    """What the elements of a set look like."""

    fields: tuple[str, ...]
    data: tuple[str, ...] = ()
    """Empty: a set. ("verdict",): a map to chains that are jumped to."""
    interval: bool = False
    counter: bool = False

    @property
    def key_size(self) -> int:
        """Bytes of one key, or of one end of an interval; fields of a concatenation are padded to 4."""
        return sum(-(-SIZES[name] // 4) * 4 for name in self.fields) if len(self.fields) > 1 else SIZES[self.fields[0]]

    @property
    def verdict(self) -> bool:
        return self.data == ("verdict",)

    def declaration(self, name: str) -> str:
        kind = "map" if self.data else "set"
        keys = " . ".join(self.fields) + (f" : {' . '.join(self.data)}" if self.data else "")
        rest = " flags interval;" if self.interval else ""
        return f"{kind} {name} {{ type {keys};{rest}{' counter;' if self.counter else ''} }}"


def interval(fields: PackedRange) -> bytes:
    """The key of a range of addresses."""
    return fields[0] + fields[1]


def mark(number: int) -> bytes:
    """Host order, which is little-endian on everything that Cloud Foundry runs on."""
    return number.to_bytes(4, "little")


def ordered_mark(number: int) -> bytes:
    """As a field of an interval set's key, where order matters: nft's rules turn it round before they look it up."""
    return number.to_bytes(4, "big")


def service(port: int) -> bytes:
    """A port as a field of a concatenation."""
    return port.to_bytes(2, "big") + b"\0\0"


def protocol(number: int) -> bytes:
    """A protocol as a field of a concatenation."""
    return bytes((number, 0, 0, 0))


def ether(mac: str) -> bytes:
    """A MAC address as a field of a concatenation."""
    return bytes.fromhex(mac.replace(":", "")) + b"\0\0"


def device(name: str) -> bytes:
    return name.encode().ljust(16, b"\0")


def _spell(fields: tuple[str, ...], packed: bytes, order: Literal["little", "big"] = "little") -> list[str]:
    words, offset = [], 0
    for name in fields:
        size = SIZES[name]
        part = packed[offset : offset + size]
        offset += -(-size // 4) * 4
        if name in ("ipv4_addr", "ipv6_addr"):
            words.append(str(ipaddress.ip_address(part)))
        elif name == "ether_addr":
            words.append(part.hex(":"))
        elif name == "mark":
            words.append(f"{int.from_bytes(part, order):#x}")
        elif name == "ifname":
            words.append(f'"{part.rstrip(bytes(1)).decode()}"')
        else:
            words.append(str(int.from_bytes(part, "big")))
    return words


def spell_key(shape: Shape, key: bytes) -> str:
    """One element's key as nft writes it."""
    if not shape.interval:
        return " . ".join(_spell(shape.fields, key))
    size = shape.key_size
    first, last = _spell(shape.fields, key[:size], "big"), _spell(shape.fields, key[size:], "big")
    return " . ".join(a if a == b else f"{a}-{b}" for a, b in zip(first, last, strict=True))


def spell(shape: Shape, key: bytes, data: bytes | None) -> str:
    """One element as nft writes it."""
    if data is None:
        return spell_key(shape, key)
    meant = f"jump {data.decode()}" if shape.verdict else " . ".join(_spell(shape.data, data))
    return f"{spell_key(shape, key)} : {meant}"


def delete_text(name: str, shape: Shape, elements: Elements) -> Iterator[str]:
    """nft commands that delete the elements, a thousand at a time."""
    spelled = [spell_key(shape, key) for key in elements]
    for start in range(0, len(spelled), 1000):
        yield f"delete element {TABLE} {name} {{ {', '.join(spelled[start : start + 1000])} }}"


def add_text(name: str, shape: Shape, elements: Elements) -> Iterator[str]:
    """nft commands that add the elements, a thousand at a time."""
    spelled = [spell(shape, key, data) for key, data in elements.items()]
    for start in range(0, len(spelled), 1000):
        yield f"add element {TABLE} {name} {{ {', '.join(spelled[start : start + 1000])} }}"
