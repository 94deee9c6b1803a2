"""What is left of a process of this node once it has ended."""

from __future__ import annotations

import asyncio
from pathlib import Path

from thaloom.base.files import remove
from thaloom.base.ids import WorkerId
from thaloom.init.layout import Layout
from thaloom.init.walls.confining import Confiner

_CLEARING, _CLEARING_S = 20, 0.05
"""How often, and how long between, a group is tried to be removed: the kernel takes a moment to clear away what was
killed. What is left then is removed with the next."""


async def clear_away(layout: Layout, confiner: Confiner, process: WorkerId) -> None:
    """Its group, with whoever is still in it, and its leftovers. Beside the event loop: a tier on the disk may be many
    thousand files."""
    for _ in range(_CLEARING):
        if await asyncio.to_thread(confiner.release, process):
            break
        await asyncio.sleep(_CLEARING_S)
    await asyncio.to_thread(remove_leftovers, layout, process)


def leftovers(layout: Layout, process: WorkerId) -> list[Path]:
    """Files and folders of a worker that mean nothing once it has ended."""
    return [layout.worker_folder(process), layout.worker_spec(process), layout.worker_walls(process)]


def remove_leftovers(layout: Layout, process: WorkerId) -> None:
    for path in leftovers(layout, process):
        remove(path)
