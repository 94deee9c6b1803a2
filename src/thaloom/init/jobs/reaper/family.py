"""All that belongs to a program: what lies in its control groups, and what descends from it, wherever it went."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # `signal` brings enum along
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


class Family:
    """Of the one program this process has started. Orphans come back to this process, so all descend from it."""

    def __init__(self, groups: Sequence[str]) -> None:
        self._groups = groups

    def members(self) -> set[int]:
        """Who lies in its groups. One the kernel still clears away is in none."""
        return {int(word) for group in self._groups for word in _text(f"{group}/cgroup.procs").split()} - {os.getpid()}

    def ask(self) -> None:
        """All of them, to end."""
        self._send(_signal.SIGTERM)

    def kill(self) -> None:
        """All of them, at once where the kernel can."""
        for group in self._groups:
            _write(f"{group}/cgroup.kill", "1")
        self._send(_signal.SIGKILL)

    def _send(self, number: int) -> None:
        """Who is one of us before and after a handle on him was opened is meant by the handle."""
        handles = {pid: handle for pid in self.members() | _descendants() if (handle := _open(pid)) is not None}
        still = self.members() | _descendants()
        for pid, handle in handles.items():
            try:
                if pid in still:
                    _signal.pidfd_send_signal(handle, number)
            except (ProcessLookupError, PermissionError):
                continue
            finally:
                os.close(handle)


def _open(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except OSError:
        return None


def _descendants() -> set[int]:
    """Source: proc(5), /proc/pid/task/tid/children; it is read for each, for some may have gone meanwhile."""
    own = os.getpid()
    if not os.path.exists(f"/proc/{own}/task/{own}/children"):
        return _by_parents(own)
    found: set[int] = set()
    todo = [own]
    while todo:
        pid = todo.pop()
        for task in _tasks(pid):
            children = {int(word) for word in _text(f"/proc/{pid}/task/{task}/children").split()} - found
            found |= children
            todo += children
    return found


def _by_parents(own: int) -> set[int]:
    """For a kernel without that file: from every process's parent."""
    parents = {}
    for name in os.listdir("/proc"):
        text = _text(f"/proc/{name}/stat") if name.isdigit() else ""
        if text:
            parents[int(name)] = int(text[text.rindex(")") + 2 :].split()[1])
    found = {own}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {own}


def _tasks(pid: int) -> list[str]:
    try:
        return os.listdir(f"/proc/{pid}/task")
    except OSError:
        return []


def _text(path: str) -> str:
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return ""


def _write(path: str, text: str) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        return
    try:
        os.write(descriptor, text.encode())
    except OSError:
        pass
    finally:
        os.close(descriptor)
