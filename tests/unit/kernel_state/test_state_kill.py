"""kill -9 at any moment: every write that was acknowledged is there."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from pathlib import Path

from thaloom.base.clock import ManualClock
from thaloom.kernel.state.store import StateStore

NUM_KILLS = 10
WRITE_FOREVER = """
import sys
from pathlib import Path
from thaloom.base.clock import SystemClock
from thaloom.kernel.state.store import StateStore
from thaloom.kernel.state.types import ServiceSpec

store = StateStore(Path(sys.argv[1]), SystemClock())
for turn in range(1_000_000):
    service = store.put_service(ServiceSpec(name=f"s{turn % 7}", model=f"m:{sys.argv[2]}-{turn}"))
    print("service", service.spec.name, service.spec.model, service.revision, flush=True)
    entry = store.journal.append("X", {"turn": turn})
    print("entry", entry.id, flush=True)
"""


def test_every_acknowledged_write_survives_kill_9(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    chance = random.Random(20261121)
    revisions: dict[str, int] = {}
    models: dict[str, str] = {}
    last_entry = 0
    for kill in range(NUM_KILLS):
        command = [sys.executable, "-c", WRITE_FOREVER, str(path), str(kill)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            lines = [child.stdout.readline() for _ in range(chance.randrange(1, 40))]
            child.send_signal(signal.SIGKILL)
            lines += child.stdout.readlines()
        for line in lines:
            words = line.split()
            if not line.endswith("\n"):
                break  # killed in the middle of telling
            if words[0] == "service":
                models[words[1]], revisions[words[1]] = words[2], int(words[3])
            else:
                last_entry = int(words[1])
        store = StateStore(path, ManualClock())
        kept = {str(service.spec.name): service for service in store.services()}
        for name, revision in revisions.items():
            # The one write under way when the kill came may be there too: it was only not acknowledged.
            assert kept[name].revision - revision in (0, 1)
            assert kept[name].revision > revision or kept[name].spec.model == models[name]
        entries = store.journal.latest(1)
        newest_entry = entries[0].id if entries else 0
        assert newest_entry - last_entry in (0, 1)
        last_entry = newest_entry  # as with the services: one more may be there each time, never two
        revisions = {name: service.revision for name, service in kept.items()}
        models = {name: service.spec.model for name, service in kept.items()}
        store.close()
    assert sum(revisions.values()) > NUM_KILLS
