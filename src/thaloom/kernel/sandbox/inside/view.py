"""A root of its own, made of what it is given and nothing else.

    begin ──> bind, scratch, link, processes ... ──> finish

In between the host's tree lies under /old and the new one grows under /new, as bubblewrap does it
(containers/bubblewrap: bubblewrap.c, "pivot_root"). Paths are those of the host; each is seen under the same path, or
where it is said to be. Everything is read-only in the end but what is named for writing.
"""

from __future__ import annotations

import os

from thaloom.kernel.sandbox.inside import kernel_calls as kernel

_BASE = "/tmp"
_OLD, _NEW = "/old", "/new"


class View:
    """One use: `begin`, the parts, `finish`. The process must be in a mount namespace of its own."""

    def __init__(self) -> None:
        self._writable: list[str] = []

    def begin(self) -> None:
        kernel.mount("none", "/", flags=kernel.MS_SLAVE | kernel.MS_REC)
        kernel.mount("thaloom", _BASE, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, "mode=755")
        for folder in (_NEW, _OLD):
            os.mkdir(_BASE + folder, 0o755)
        kernel.pivot_root(_BASE, _BASE + _OLD)
        os.chdir("/")
        kernel.mount(_NEW, _NEW, flags=kernel.MS_BIND | kernel.MS_REC)

    def bind(self, source: str, seen_at: str, *, write: bool = False) -> None:
        """A file, folder or device node of the host. Raises FileNotFoundError if it is not there."""
        target = _NEW + seen_at
        if os.path.isdir(_OLD + source):
            os.makedirs(target, 0o755, exist_ok=True)
        elif not os.path.lexists(target):
            os.makedirs(os.path.dirname(target), 0o755, exist_ok=True)
            os.close(os.open(target, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o644))
        kernel.mount(_OLD + source, target, flags=kernel.MS_BIND | kernel.MS_REC)
        if write:
            self._writable.append(seen_at)

    def disk(self, device: str, seen_at: str) -> None:
        """A file system on a block device of the host, which can be written. It goes with the last process in here:
        this mount namespace is the only one that has it."""
        target = _NEW + seen_at
        os.makedirs(target, 0o755, exist_ok=True)
        # The kernel's late clearing of inode tables would make holes in the file behind it, whose bytes are taken.
        kernel.mount(_OLD + device, target, "ext4", kernel.MS_NOSUID | kernel.MS_NODEV, "noinit_itable")
        try:
            os.rmdir(target + "/lost+found")
        except OSError:
            pass  # another attempt was before, or something was found
        self._writable.append(seen_at)

    def scratch(self, path: str, num_bytes: str) -> None:
        """Memory that can be written, `num_bytes` of it."""
        os.makedirs(_NEW + path, 0o755, exist_ok=True)
        self._make(path, f"mode=1777,size={num_bytes}")
        self._writable.append(path)

    def cover(self, path: str) -> None:
        """An empty folder where there was something."""
        self._make(path, "mode=755,size=4096")

    def link(self, path: str, target: str) -> None:
        os.makedirs(_NEW + os.path.dirname(path), 0o755, exist_ok=True)
        os.symlink(target, _NEW + path)

    def processes(self, how: str) -> None:
        """/proc: `own` shows what this process may look into, `shared` is the host's."""
        os.makedirs(_NEW + "/proc", 0o755, exist_ok=True)
        if how == "own":
            flags = kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC
            kernel.mount("proc", _NEW + "/proc", "proc", flags, "hidepid=ptraceable")
        else:
            kernel.mount(_OLD + "/proc", _NEW + "/proc", flags=kernel.MS_BIND | kernel.MS_REC)

    def finish(self) -> None:
        """The host's tree is gone after this."""
        kernel.set_mount(_NEW, read_only=True)
        for path in self._writable:
            kernel.set_mount(_NEW + path, read_only=False)
        kernel.umount(_OLD)
        os.chdir(_NEW)
        kernel.pivot_root(".", ".")
        kernel.umount(".")
        os.chdir("/")

    def _make(self, path: str, options: str) -> None:
        kernel.mount("thaloom", _NEW + path, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, options)
