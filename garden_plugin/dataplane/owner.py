"""How do we know what is ours? Our mark on everything that we make; only marked things are seen, changed and removed.

table `inet cfbridge`, comment "cfbridge schema=…"    chain: first rule's comment "cfb <digest>", what it was made from
rule: comment "r<id>"          links, routes, addresses: group, protocol and alias (dataplane/linux/links.py)
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable


def seal(lines: Iterable[str]) -> str:
    """The comment that says what a chain was made from, and how long it is: after a restart we know it by that."""
    written = list(lines)
    digest = hashlib.sha256("\n".join(written).encode()).hexdigest()[:16]
    return f"cfb {digest} {len(written)}"
