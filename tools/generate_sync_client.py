"""Write the client for programs without an event loop from the one with: `make docs`. With --check, only say which
files are out of date.

The two differ in a few words alone, so one of them is a translation: nobody can forget a method in it.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SDK = ROOT / "src" / "thaloom" / "edge" / "client" / "sdk"
HEAD = "# Made from {source} by tools/generate_sync_client.py (make docs): change that one.\n"
WORDS: tuple[tuple[str, str], ...] = (
    # Sentences that are about the event loop come first.
    (
        r"\n\nThe client for programs without an event loop is made from this one by [^\n]*\n",
        "\n\nThe client for programs with an event loop has the same methods, to be awaited.\n",
    ),
    (r"an(\s+)exception, a cancellation", r"an\1exception, Ctrl-C"),
    (r"\basync (def|with|for)\b", r"\1"),
    (r"\bawait ", ""),
    (r"\bAsyncGenerator\[(.*), None\]", r"Generator[\1, None, None]"),
    (r"\bAsync([A-Z]\w*)", r"\1"),
    (r"\bsdk\.async_(\w+)", r"sdk.\1"),
    (r"__a(enter|exit|iter|next)__", r"__\1__"),
    (r"\ba(close|closing|next|read|iter_bytes)\b", r"\1"),
    (r"\bimport asyncio\n", "import time\n"),
    (r"\basyncio\.sleep\b", "time.sleep"),
)


def translated(source: Path) -> str:
    text = source.read_text(encoding="utf-8")
    for pattern, words in WORDS:
        text = re.sub(pattern, words, text)
    text = HEAD.format(source=source.name) + text
    return _ruff(_ruff(text, source, "check", "--fix", "--quiet", "--select", "I,F401"), source, "format", "--quiet")


def _ruff(text: str, source: Path, *words: str) -> str:
    name = str(source.with_name(source.name.removeprefix("async_")))
    command = [sys.executable, "-m", "ruff", *words, "--stdin-filename", name, "-"]
    return subprocess.run(command, input=text, check=True, capture_output=True, text=True, cwd=ROOT).stdout


def main() -> int:
    stale = []
    for source in sorted(SDK.glob("async_*.py")):
        target = source.with_name(source.name.removeprefix("async_"))
        text = translated(source)
        if not target.exists() or target.read_text(encoding="utf-8") != text:
            stale.append(target.name)
            if "--check" not in sys.argv:
                target.write_text(text, encoding="utf-8")
    print("out of date: " + ", ".join(stale) if stale else "the client without an event loop is up to date")
    return 1 if stale and "--check" in sys.argv else 0


if __name__ == "__main__":
    sys.exit(main())
