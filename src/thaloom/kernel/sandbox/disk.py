"""A disk of a program's own: a file system of a given size in a file, so that its end is a wall.

The file's bytes are taken when it is made, not when they are written: with a file that is only long, a full host would
lose what the program was told is written. (A few holes come back where the file system clears blocks of its own.) The
launcher mounts it where the program alone sees it (`inside/loop.py`); who wants to look into it later does so while
nothing has it mounted (`is_mounted`).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from thaloom.base.errors import BadParameter, NotEnforceable
from thaloom.base.files import PARTIAL, disk_errors, require_space, sync_folder
from thaloom.base.units import format_bytes
from thaloom.kernel.sandbox.host import TRIAL_PREFIX, Walls, python_paths, real_paths
from thaloom.kernel.sandbox.plan import command_of, steps_of, write_plan
from thaloom.kernel.sandbox.types import Ability, Confinement

LEAST_BYTES = 16 << 20
"""A file system that keeps a journal takes some MiB for itself."""
LEFT_BYTES = 64 << 20
"""Of the host's disk no such disk takes the last: the node's own reserve would not grow back (state.reserve)."""
_MAKER = "mkfs.ext4"
_PLACES = "/usr/sbin:/sbin:/usr/local/sbin"
"""Where it is; not every user looks there."""
_MAKING_S = 300.0
_TRIAL_S = 20.0
_BLOCK_BYTES = 4096

_SUPERBLOCK_AT, _MAGIC = 1024, 0xEF53
_RESERVED_SHARE, _MOST_RESERVED = 50, 4096
"""The kernel keeps one in fifty blocks to itself, and no more than so many. Source: ext4_calculate_resv_clusters,
fs/ext4/super.c."""
_SLACK_BLOCKS = 256
"""Of a full one some are left: what did not fit was longer than one block, often a MiB."""
_CLOSING_S = 5.0


def make_disk(image: Path, num_bytes: int) -> None:
    """An empty file system of that size, bookkeeping included, at `image`; one of that size that is there stays.

    Takes that many bytes of the host's disk. Raises BadParameter, DiskFull, NotEnforceable. Blocks, mostly for tens of
    milliseconds.
    """
    if num_bytes < LEAST_BYTES:
        raise BadParameter(f"a disk must have at least {format_bytes(LEAST_BYTES)}", param="disk_bytes")
    num_bytes -= num_bytes % _BLOCK_BYTES
    if image.exists() and image.stat().st_size == num_bytes:
        return
    require_space(image, num_bytes + LEFT_BYTES)
    partial = Path(f"{image}{PARTIAL}")
    try:
        with disk_errors(image), partial.open("wb") as file:
            os.fchmod(file.fileno(), 0o600)
            os.posix_fallocate(file.fileno(), 0, num_bytes)
        _format(partial)
        with disk_errors(image), partial.open("rb+") as file:
            os.posix_fallocate(file.fileno(), 0, num_bytes)  # its maker makes holes where it clears
            os.fsync(file.fileno())
        partial.replace(image)
        sync_folder(image.parent)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def is_mounted(image: Path) -> bool:
    """Whether a program has it. The kernel lets go of it soon after the last one has ended."""
    try:
        with image.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def is_full(image: Path) -> bool:
    """Whether what is in it leaves no more to a program, in bytes or in files; False where that cannot be told.
    Waits for the last mount to go: only then the figures are written."""
    give_up = time.monotonic() + _CLOSING_S
    while is_mounted(image):
        if time.monotonic() > give_up:
            return False
        time.sleep(0.01)
    with contextlib.suppress(OSError, struct.error), image.open("rb") as file:
        file.seek(_SUPERBLOCK_AT)
        block = file.read(1024)
        blocks: int
        free: int
        free_files: int
        blocks, _, free, free_files = struct.unpack_from("<IIII", block, 4)
        (magic,) = struct.unpack_from("<H", block, 0x38)
        blocks += struct.unpack_from("<I", block, 0x150)[0] << 32
        free += struct.unpack_from("<I", block, 0x158)[0] << 32
        kept_back = min(blocks // _RESERVED_SHARE, _MOST_RESERVED)
        return magic == _MAGIC and (free <= kept_back + _SLACK_BLOCKS or free_files == 0)
    return False


def find_disk(folder: Path, walls: Walls) -> Ability:
    """Whether this host builds one: found out by doing it in `folder`, around a program that does nothing. Blocks for a
    tenth of a second."""
    if "view" not in walls.enforced:
        return Ability(name="disk", why_not=f"it needs the wall view: {walls.abilities['view'].why_not}")
    if walls.ways.user_namespace or os.geteuid() != 0:
        return Ability(name="disk", why_not="only root may mount a file system, and in no user namespace")
    if _maker() is None:
        return Ability(name="disk", why_not=f"there is no {_MAKER} (package e2fsprogs)")
    try:
        with tempfile.TemporaryDirectory(prefix=TRIAL_PREFIX, dir=folder) as trial:
            why_not = _fails(Path(trial), walls)
    except OSError as error:
        why_not = str(error)
    if why_not is not None:
        return Ability(name="disk", why_not=why_not)
    return Ability(name="disk", by="ext4 of its own in a file, through a loop device that clears itself")


def _fails(folder: Path, walls: Walls) -> str | None:
    """Why a program cannot be started with one, or None."""
    image, plan = folder / "image", folder / "plan"
    try:
        make_disk(image, LEAST_BYTES)
    except (NotEnforceable, OSError) as error:
        return str(error)
    wish = Confinement(read=python_paths(), disk=(str(image), "/own"), folder="/own")
    write_plan(plan, steps_of(wish, walls.enforced, walls.ways, real=real_paths(wish)))
    command = command_of(plan, [sys.executable, "-I", "-S", "-c", "open('written', 'w').write('x')"])
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_TRIAL_S, check=False, cwd="/"
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    words = done.stderr.decode(errors="replace").strip().splitlines()
    return None if done.returncode == 0 else "".join(words[-1:]) or f"it ended with {done.returncode}"


def _format(path: Path) -> None:
    maker = _maker()
    if maker is None:
        raise NotEnforceable(f"there is no {_MAKER} (package e2fsprogs)", param="disk_bytes", limit="disk")
    owner = f"nodiscard,root_owner={os.geteuid()}:{os.getegid()}"  # nodiscard: the bytes taken stay taken
    command = [maker, "-q", "-F", "-b", str(_BLOCK_BYTES), "-m", "0", "-E", owner, str(path)]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_MAKING_S, check=False, cwd="/"
    )
    if done.returncode != 0:
        words = done.stderr.decode(errors="replace").strip()
        raise NotEnforceable(f"no file system can be made: {words}", param="disk_bytes", limit="disk")


def _maker() -> str | None:
    return shutil.which(_MAKER, path=f"{os.environ.get('PATH', os.defpath)}:{_PLACES}")
