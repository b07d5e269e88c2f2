"""What does the store keep beside what is held? A row each, as its writer and reader know it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Confirmed:
    """One kind of a foundation's, as its last complete look confirmed it."""

    foundation: str
    kind: str
    format: int
    """How `content` is written: the writer's and reader's to know."""
    at: float
    content: bytes


@dataclass(frozen=True, slots=True)
class Revised:
    """The whole intent, as people published it."""

    number: int
    """From 1, without a gap."""
    at: float
    author: str
    reason: str
    summary: str
    """What it changed, in few words."""
    content: bytes = b""
    """Compressed; left out of lists."""


@dataclass(frozen=True, slots=True)
class Drafted:
    """Edits that are collected under a name."""

    name: str
    author: str
    """Of the last one."""
    at: float
    content: bytes


@dataclass(frozen=True, slots=True)
class Audited:
    """Something that a person told the bridge to do, or tried to."""

    at: float
    author: str
    origin: str
    """From where: `local`, or an address."""
    action: str
    """`PUT /intent`"""
    target: str
    """Of what has an id: which."""
    status: int
    """As HTTP has it."""
    revision: int | None = None
    """That was published."""
    detail: str = ""
    """What changed, line by line."""
    id: int = 0
    """The store's; 0 before it is there."""
