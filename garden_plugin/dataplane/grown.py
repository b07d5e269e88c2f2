"""In what does a large mapping differ from the one before it? Known to whoever made it, so that nobody has to compare.

A dictionary like any other, equal to any with the same entries. It does not keep its predecessor alive.
"""

from __future__ import annotations

import weakref
from collections.abc import Collection, Mapping
from typing import TypeVar

K = TypeVar("K")
V = TypeVar("V")
_MISSING = object()


class Grown(dict[K, V]):
    """`base` with `news` in it and `gone` out of it."""

    def __init__(self, base: Mapping[K, V], news: Mapping[K, V], gone: Collection[K] = ()) -> None:
        super().__init__(base)
        self.update(news)
        for key in gone:
            self.pop(key, None)
        self.touched: tuple[K, ...] = (*news, *gone)
        self._base = weakref.ref(base) if isinstance(base, Grown) else None

    def grew_from(self, base: object) -> bool:
        return self._base is not None and self._base() is base


def touched(before: Mapping[K, V], after: Mapping[K, V]) -> Collection[K]:
    """Keys whose value may differ, or that are in one of them only; no others are worth a look."""
    if before is after:
        return ()
    if isinstance(after, Grown) and after.grew_from(before):
        return after.touched
    changed = [key for key, value in after.items() if before.get(key, _MISSING) != value]
    return [*changed, *(key for key in before if key not in after)]
