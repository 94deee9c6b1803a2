"""The node's own memory, kept from being reclaimed while others want it; with control groups of version 2 alone."""

from __future__ import annotations

from pathlib import Path

from thaloom.kernel.sandbox.finding import own_groups
from thaloom.kernel.sandbox.v2 import NODE

NODE_BYTES = 128 << 20
"""What a daemon takes. It has no more of it than the groups above its own are given (systemd: MemoryMin)."""


def protect_node(root: Path = Path("/")) -> bool:
    """For this process, if it is in the group that nodes move to; whether the kernel took it. Others' groups are left
    as they are."""
    folder = own_groups(None, root).get("v2")
    if folder is None or folder.name != NODE or not (folder / "memory.min").exists():
        return False
    try:
        (folder / "memory.min").write_text(str(NODE_BYTES))
    except OSError:  # nobody asked for it
        return False
    return True
