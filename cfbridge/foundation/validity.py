"""Until when is a certificate good, and whose is it? The few fields of X.509 that a person asks for. Pure.

The standard library shows a certificate only after it was verified, which is when nobody asks. So its DER is walked as
far as these fields:

    Certificate > TBSCertificate > [0] version, serial, algorithm, issuer, validity (begin, end), subject
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

_SEQUENCE, _VERSION, _UTC_TIME, _TIME = 0x30, 0xA0, 0x17, 0x18
_COMMON_NAME, _ORGANIZATION, _UNIT = b"\x55\x04\x03", b"\x55\x04\x0a", b"\x55\x04\x0b"


@dataclass(frozen=True, slots=True)
class Certificate:
    subject: str
    """Its common name, else its unit or organisation; what it says, so quote it."""
    issuer: str
    begins: datetime
    ends: datetime


def read(der: bytes) -> Certificate:
    """ValueError where this is no certificate."""
    fields = [*_elements(_only(_only(der, _SEQUENCE), _SEQUENCE))]
    begin = 1 if fields and fields[0][0] == _VERSION else 0
    if len(fields) < begin + 5:
        raise ValueError("a certificate has more fields")
    (_, issuer), (_, validity), (_, subject) = fields[begin + 2 : begin + 5]
    begins, ends = (_moment(tag, content) for tag, content in _pair(validity))
    return Certificate(_name(subject), _name(issuer), begins, ends)


def _elements(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Tag and content of each element, one after the other."""
    at = 0
    while at < len(content):
        tag, at, end = _header(content, at)
        yield tag, content[at:end]
        at = end


def _header(content: bytes, at: int) -> tuple[int, int, int]:
    """(tag, where its content begins, where it ends)"""
    if at + 2 > len(content):
        raise ValueError("an element is cut off")
    tag, length, at = content[at], content[at + 1], at + 2
    if length & 0x80:
        octets = length & 0x7F
        length, at = int.from_bytes(content[at : at + octets], "big"), at + octets
    if at + length > len(content):
        raise ValueError("an element is longer than what it is in")
    return tag, at, at + length


def _only(content: bytes, wanted: int) -> bytes:
    tag, begin, end = _header(content, 0)
    if tag != wanted:
        raise ValueError(f"an element is 0x{tag:02x} and should be 0x{wanted:02x}")
    return content[begin:end]


def _moment(tag: int, content: bytes) -> datetime:
    text = content.decode("ascii")
    if tag == _UTC_TIME:  # two digits of the year: 1950 to 2049
        text = ("20" if text[:2] < "50" else "19") + text
    elif tag != _TIME:
        raise ValueError("a validity's end is no time")
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)


def _name(content: bytes) -> str:
    found: dict[bytes, str] = {}
    for _, relative in _elements(content):
        for _, attribute in _elements(relative):
            (_, kind), (_, value) = _pair(attribute)
            found.setdefault(kind, value.decode("utf-8", "replace"))
    return next((found[kind] for kind in (_COMMON_NAME, _UNIT, _ORGANIZATION) if kind in found), "")


def _pair(content: bytes) -> tuple[tuple[int, bytes], tuple[int, bytes]]:
    both = tuple(_elements(content))
    if len(both) != 2:
        raise ValueError("an element has two parts")
    return both[0], both[1]
