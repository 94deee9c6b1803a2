"""The guest's files: this interpreter, this checkout and what both need, in one archive that its kernel unpacks.

Everything has the path it has on the host, so that what is run there is started as it is here. Nothing of the host is
shared: what the guest writes is gone with it.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import stat
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from tests.hardware.guest.init import ORDERS

PROGRAMS = ("sh", "cat", "true", "sleep")
"""Beside Python; with their libraries."""
_FOLDERS = ("proc", "sys", "dev", "run", "tmp", "root", "etc", "var/tmp", "usr/bin", "usr/lib")
_NOT_NEEDED = frozenset({"test", "tests", "idlelib", "turtledemo", "tkinter", "ensurepip", "lib2to3", "site-packages"})
"""Of the standard library; Debian keeps its own additions in dist-packages."""
_LOADED_LATE = ("libgcc_s.so.1",)
"""Libraries that are asked for by name while a program runs: threads end by this one."""


def write_image(
    to: Path, *, root: Path, tree: Sequence[str], packages: Sequence[str], command: Sequence[str],
    environment: Mapping[str, str],
) -> None:  # fmt: skip
    """`tree`: files and folders of the checkout `root`. `packages`: what is installed beside the standard library, by
    the names it is installed by. `command`: what the guest runs, in `root`; its first word an absolute path."""
    orders = {"command": [*command], "environment": {**environment}, "folder": str(root)}
    with to.open("wb") as file:
        archive = Archive(file)
        for folder in _FOLDERS:
            archive.folder(Path("/") / folder)
        archive.device(Path("/dev/console"), 5, 1)  # the kernel's own output, before anything is mounted
        archive.text(Path("/etc/passwd"), "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n")
        archive.text(Path(ORDERS), json.dumps(orders))
        for path in (*_python(), *_packages(packages), *_programs()):
            archive.add(path)
        for name in tree:
            for path in _below(root / name):
                archive.add(path)
        archive.end()


class Archive:
    """A cpio archive as the kernel reads it. Source: kernel documentation, driver-api/early-userspace/buffer-format."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._there: set[Path] = set()

    def add(self, path: Path) -> None:
        """A file or a symbolic link of the host with what it leads to, and the folders it lies in."""
        if path in self._there:
            return
        parent = path.parent
        if parent.resolve() != parent:  # a folder on the way is a link: the link, and the file where it really lies
            self._links(parent)
            self.add(parent.resolve() / path.name)
            return
        self.folder(parent)
        self._there.add(path)
        if path.is_symlink():
            self._entry(path, stat.S_IFLNK | 0o777, os.fsencode(path.readlink()))
            self.add(parent / path.readlink())
        else:
            facts = path.stat()
            self._entry(path, facts.st_mode, path.read_bytes(), facts.st_mtime)

    def text(self, path: Path, words: str) -> None:
        self._entry(path, stat.S_IFREG | 0o644, words.encode())

    def folder(self, path: Path) -> None:
        for place in (*reversed(path.parents), path):
            if place not in self._there and place != Path("/"):
                self._there.add(place)
                self._entry(place, stat.S_IFDIR | 0o755)

    def device(self, path: Path, major: int, minor: int) -> None:
        self._entry(path, stat.S_IFCHR | 0o600, device=(major, minor))

    def end(self) -> None:
        self._entry(Path("/TRAILER!!!"), 0)

    def _links(self, folder: Path) -> None:
        """Each link among `folder` and those above it."""
        for place in (*reversed(folder.parents), folder):
            if place.is_symlink() and place not in self._there:
                self.folder(place.parent.resolve())
                self._there.add(place)
                target = place.readlink()
                self._entry(place.parent.resolve() / place.name, stat.S_IFLNK | 0o777, os.fsencode(target))
                self.folder(place.resolve())

    def _entry(
        self, path: Path, mode: int, content: bytes = b"", written: float = 0.0, device: tuple[int, int] = (0, 0)
    ) -> None:
        name = os.fsencode(path.relative_to("/")) + b"\0"
        fields = (len(self._there), mode, 0, 0, 1, int(written), len(content), 0, 0, *device, len(name), 0)
        self._write(b"070701" + b"".join(b"%08x" % field for field in fields) + name)
        self._write(content)

    def _write(self, words: bytes) -> None:
        self._file.write(words + bytes(-len(words) % 4))  # each part begins at a multiple of four


def _python() -> Iterator[Path]:
    """The interpreter as it was started, the one it stands for, and the standard library."""
    yield Path(sys.executable)
    if sys.prefix != sys.base_prefix:
        yield Path(sys.prefix) / "pyvenv.cfg"
    library = Path(sysconfig.get_path("stdlib"))
    extensions = []
    for path in _below(library):
        if not _NOT_NEEDED & {*path.relative_to(library).parts} and not path.parent.name.startswith("config-"):
            yield path
            extensions += [path] if path.suffix == ".so" else []
    yield from _libraries([Path(os.path.realpath(sys.executable)), *extensions])


def _packages(names: Sequence[str]) -> Iterator[Path]:
    """All that was installed with them but their commands."""
    for name in names:
        found = importlib.metadata.distribution(name)
        paths = [Path(os.path.normpath(str(found.locate_file(file)))) for file in found.files or ()]
        inside = Path(os.path.normpath(str(found.locate_file(""))))
        paths = [path for path in paths if path.is_relative_to(inside) and path.is_file()]
        yield from paths
        yield from _libraries([path for path in paths if path.suffix == ".so"])


def _programs() -> Iterator[Path]:
    found = [Path(place) for name in PROGRAMS if (place := shutil.which(name, path="/bin:/usr/bin"))]
    yield from found
    yield from _libraries(found)


def _below(path: Path) -> Iterator[Path]:
    if not path.is_dir():
        yield path
        return
    for folder, folders, files in os.walk(path):
        folders.sort()
        for name in sorted(files):
            # What is not optimised is what is run; a compiled file another user wrote is as good as its source.
            if not name.endswith((".opt-1.pyc", ".opt-2.pyc", ".a")):
                yield Path(folder) / name


def _libraries(programs: Sequence[Path]) -> Iterator[Path]:
    """What the loader finds for them. Source: ldd(1); each line ends in where it is loaded to."""
    told = subprocess.run(
        ["ldd", *map(str, programs)], capture_output=True, text=True, check=False, timeout=60.0
    ).stdout
    for line in told.splitlines():
        words = line.split()
        place = next((word for word in words if word.startswith("/") and not word.endswith(":")), None)
        if line.startswith("\t") and place is not None:
            yield Path(place)
            for name in _LOADED_LATE:
                if (beside := Path(place).parent / name).exists():
                    yield beside
