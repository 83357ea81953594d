"""The site of the docs is built without a warning, and its pages ask no other host for anything."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LOADED = re.compile(
    r"""<(?:script|img|iframe)[^>]*\ssrc=["']?([^"'\s>]+)|<link\s(?![^>]*canonical)[^>]*href=["']?([^"'\s>]+)"""
)
"""Addresses that a browser asks for by itself."""


@pytest.mark.slow
def test_the_site_is_built_strictly_and_needs_no_network(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    pages = list(tmp_path.rglob("*.html"))
    assert {"index.html", "settings.html", "python.html", "CONTRIBUTING.html"} <= {page.name for page in pages}
    for page in pages:
        addresses = [first or second for first, second in LOADED.findall(page.read_text())]
        assert len(addresses) > 3, page
        assert [address for address in addresses if "//" in address] == [], page
    for style in tmp_path.rglob("*.css"):
        assert not re.search(r"(?:@import|url\()\s*[\"']?(?:https?:)?//", style.read_text()), style
    reference = (tmp_path / "docs/python.html").read_text()
    assert all(
        f'id="stepagent.{name}"' in reference for name in ("api.search", "interfaces.Judge", "testing.RankingJudge")
    )
    assert (tmp_path / "recipes/hosted.yaml").read_bytes() == (ROOT / "recipes/hosted.yaml").read_bytes()
