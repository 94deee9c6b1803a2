"""Manual pages to plain text, through mandoc's HTML."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from text_html import text_from_html

SECTIONS = re.compile(r"/man/man[1-9n][^/]*/")


def is_manual(path: str) -> bool:
    """True for English manual pages; translations live in /man/<language>/man1."""
    return SECTIONS.search(path) is not None


def text_from_manual(source: bytes, mandoc: Path) -> str:
    """Renders one roff page; a page that only points at another gives ""."""
    if len(source) < 400 or source.lstrip().startswith(b".so "):
        return ""
    try:
        rendered = subprocess.run(
            [mandoc, "-T", "html", "-K", "utf-8"], input=source, capture_output=True, timeout=20, check=False
        )
    except subprocess.TimeoutExpired:
        return ""
    return text_from_html(rendered.stdout.replace(b"\xe2\x80\x90", b"-"))
