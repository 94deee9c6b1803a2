"""A driver keeps to its device: no network, no processes, no libraries from just anywhere."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from thaloom.hal.testing.bench import bench, sequences_for
from thaloom.hal.testing.programs import tiny_model
from thaloom.hal.testing.schedules import together
from thaloom.hal.testing.suite import Subject, check, expect
from thaloom.hal.testing.watch import Watched, watching


@contextmanager
def _whole_life(subject: Subject) -> Iterator[Watched]:
    """A device's whole life, watched: found, read, opened, run, closed."""
    case = tiny_model(0)
    sequences = sequences_for(case)
    with watching() as watched:
        subject.driver.probe()
        subject.driver.read(subject.device_id)
        with bench(subject.open(2), case) as made:
            made.play(sequences, together(sequences))
    yield watched


@check("security.no_network")
def no_network(subject: Subject) -> None:
    with _whole_life(subject) as watched:
        expect(not watched.network(), f"uses the network: {watched.network()[:1]}")


@check("security.no_processes")
def no_processes(subject: Subject) -> None:
    with _whole_life(subject) as watched:
        expect(not watched.processes(), f"starts a process: {watched.processes()[:1]}")


@check("security.libraries_from_safe_places")
def libraries_from_safe_places(subject: Subject) -> None:
    """By absolute path to a file others cannot write, or by plain name, which the system's linker looks up."""
    with _whole_life(subject) as watched:
        for library in watched.libraries():
            path = Path(library)
            if os.sep not in library or library == "None":
                continue
            expect(path.is_absolute(), f"loads {library!r} from wherever it happens to be started")
            writable = path.exists() and path.stat().st_mode & stat.S_IWOTH
            expect(not writable, f"loads {library!r}, which anybody may change")


@check("security.leaves_the_process_alone")
def leaves_the_process_alone(subject: Subject) -> None:
    before = (dict(os.environ), Path.cwd(), _umask())
    with _whole_life(subject):
        pass
    expect((dict(os.environ), Path.cwd(), _umask()) == before, "changes environment, working folder or umask")


def _umask() -> str:
    """Read from /proc: asking the system for it means setting it."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next((line for line in lines if line.startswith("Umask")), "")
