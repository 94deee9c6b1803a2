from __future__ import annotations

import signal

import pytest

from thaloom.kernel.sandbox.ends import Ending, met_wall
from thaloom.kernel.sandbox.types import Confinement, Limits, Strikes

WISH = Confinement(limits=Limits(memory_bytes=64 << 20, num_pids=8), scratch_bytes=1 << 20, file_bytes=1 << 20)


def reason(
    *,
    status: int | None = 1,
    oom_kills: int | None = 0,
    forks_refused: int | None = 0,
    words: str = "",
    hidden: str = "",
    full_disk_bytes: int | None = None,
) -> str | None:
    strikes = Strikes(oom_kills=oom_kills, forks_refused=forks_refused)
    ending = Ending(status=status, strikes=strikes, words=words, full_disk_bytes=full_disk_bytes)
    met = met_wall(ending, WISH, lambda path: bool(hidden) and path.startswith(hidden))
    return None if met is None else met.reason


@pytest.mark.parametrize(
    ("ending", "expected"),
    [
        ({"status": -signal.SIGKILL, "oom_kills": 1}, "MemoryLimit"),
        ({"status": None, "oom_kills": 1}, "MemoryLimit"),  # adopted: nobody knows how it ended
        ({"status": -signal.SIGSYS}, "ForbiddenCall"),
        ({"forks_refused": 3}, "ProcessLimit"),
        ({"status": -signal.SIGXFSZ}, "FileLimit"),
        ({"words": "OSError: [Errno 27] File too large"}, "FileLimit"),
        ({"words": "OSError: [Errno 64] Machine is not on the network"}, "NetworkForbidden"),
        ({"words": "OSError: [Errno 28] No space left on device: '/tmp/x'"}, "ScratchFull"),
        ({"words": "No space left on device", "full_disk_bytes": 5}, "DiskLimit"),
        ({"words": "it says nothing of it", "full_disk_bytes": 5}, "DiskLimit"),
        ({"words": "[Errno 2] No such file or directory: '/store/b/w'", "hidden": "/store/b"}, "OutsideItsView"),
        ({"words": "cat: /store/b/w: Permission denied", "hidden": "/store/b"}, "OutsideItsView"),
    ],
)
def test_each_wall_has_a_name(ending: dict[str, object], expected: str) -> None:
    assert reason(**ending) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "ending",
    [
        {"status": 1, "words": "ValueError: no"},
        {"status": -signal.SIGKILL},  # somebody killed it: no wall did
        {"status": -signal.SIGSEGV},
        {"words": "[Errno 2] No such file or directory: '/nowhere'", "hidden": "/store"},  # it is nowhere
        {"oom_kills": None, "forks_refused": None},  # nothing counts here
    ],
)
def test_no_wall_is_blamed_without_evidence(ending: dict[str, object]) -> None:
    assert reason(**ending) is None  # type: ignore[arg-type]


def test_what_the_kernel_counted_comes_before_what_the_program_said() -> None:
    assert reason(oom_kills=1, words="No space left on device") == "MemoryLimit"
    assert reason(oom_kills=1, full_disk_bytes=5) == "MemoryLimit"


def test_the_limit_is_named() -> None:
    ending = Ending(status=-9, strikes=Strikes(oom_kills=1), words="")
    met = met_wall(ending, WISH, lambda path: False)
    assert met is not None
    assert "64.0 MiB" in met.message
