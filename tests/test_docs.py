"""Does what the documentation names exist?"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
_NAMED = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")
NAMED = sorted(
    {
        (page.relative_to(ROOT).as_posix(), path, name or "")
        for page in (ROOT / "docs").rglob("*.md")
        for path, name in _NAMED.findall(page.read_text())
    }
)


def test_the_proofs_name_tests() -> None:
    assert sum(page == "docs/proofs.md" and bool(name) for page, _, name in NAMED) > 50


@pytest.mark.parametrize(("page", "path", "name"), NAMED)
def test_a_test_that_a_page_names_is_there(page: str, path: str, name: str) -> None:
    written = (ROOT / path).read_text()
    assert not name or re.search(rf"^(async )?def {name}\(", written, re.MULTILINE), f"{page} names {path}::{name}"
