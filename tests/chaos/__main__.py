"""Twenty minutes of faults on a real node, judged.

    python -m tests.chaos --minutes 20 --seed 1 --record     (make chaos)
    python -m tests.chaos --replay benchmarks/records/DATE-chaos.json

A daemon, its door and four workers for three services run on a disk of their own; sixteen clients stream, two write,
four have jobs done, an operator changes the node all the time. Faults strike by a schedule made from the seed. At the
end: only failures that the faults allow (tests.chaos.judge), every fault healed, the journal intact and led through by
what was known of it at the begin, all that was asked for by an id done or not done as its answer said, and the node
holds what it held before.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.chaos.clients import NUM_STREAMS, NUM_WRITERS, Crowd, Keys
from tests.chaos.jobs import NUM_EMPLOYERS, Employer
from tests.chaos.judge import ERROR_WITHIN_S, HEALED_WITHIN_S, Verdict, judge
from tests.chaos.leaks import complaints, left_behind, look_when_calm, more_than
from tests.chaos.operators import Operator
from tests.chaos.schedule import GAP_S, KINDS, Fault, from_json, make_schedule, to_json
from tests.chaos.stage import PATIENCE_S, Stage, own_disk, stage_at
from tests.chaos.striking import Striker
from thaloom.edge.wire.control import Checkpoint, VerifyJournalRequest

_THALOOM = "import sys; from thaloom.user.cli import main; sys.exit(main(sys.argv[1:]))"
WARM_S = 5.0
"""Clients at full before the first look: pools grow to their size, and libraries load."""


async def run(stage: Stage, faults: list[Fault], seed: int, duration_s: float) -> dict[str, Any]:
    """The whole story; everything that must not be is in the verdict's failures."""
    keys = Keys(await stage.build(NUM_STREAMS + NUM_WRITERS))
    crowd = Crowd(stage, keys, seed)
    await crowd.learn()
    await _stream_for(crowd, WARM_S)
    warm = [served for served in stage.facts.requests if served.outcome != "whole"]
    if warm:
        raise AssertionError(f"not even undisturbed: {warm[:3]}")
    before = await look_when_calm(stage)
    checkpoint = await stage.call(lambda client: client.checkpoint())
    mounts = before.same["mounts here"]
    stage.begin()
    crowd.most_at_once = 0
    print(f"{len(faults)} faults in {duration_s:.0f} s, seed {seed}", flush=True)
    load = await _strike(stage, crowd, keys, faults, seed, duration_s)
    striker, operators = load["striker"], load["operators"]
    if not await stage.until_whole(HEALED_WITHIN_S):
        stage.fail(f"not whole at the end: {stage.missing()}")
    for operator in operators:
        await operator.tidy()
    after = await look_when_calm(stage, before)
    for line in more_than(after, before):
        stage.fail(f"not as before: {line}")
    journal = await _journal(stage, checkpoint)
    await _go_down(stage, mounts)
    for line in complaints(stage):
        stage.fail(f"complaint in {line}")
    for line in stage.bad_ends:
        stage.fail(f"a daemon ended by itself: {line}")
    verdict = judge(stage.facts, {fault.number: fault.kind for fault in faults})
    return {
        "verdict": verdict,
        "struck": dict(striker.struck),
        "missed": dict(striker.missed),
        "backups": striker.backups,
        "operators": dict(sum((operator.endings for operator in operators), Counter())),
        "journal": journal,
        "starts_of_the_daemon": stage.num_starts,
        "most_streams_at_once": crowd.most_at_once,
        "load_average": load["load"],
        "leaks": {"before": asdict(before), "after": asdict(after)},
    }


async def _stream_for(crowd: Crowd, seconds: float) -> None:
    crowd.leaving = False
    async with asyncio.TaskGroup() as tasks:
        for number in range(NUM_STREAMS):
            tasks.create_task(crowd.stream(number))
        for number in range(NUM_WRITERS):
            tasks.create_task(crowd.write(number))
        await asyncio.sleep(seconds)
        crowd.leaving = True


async def _strike(
    stage: Stage, crowd: Crowd, keys: Keys, faults: list[Fault], seed: int, duration_s: float
) -> dict[str, Any]:
    striker = Striker(stage, keys, seed)
    operator = Operator(stage, "main", seed, striker.disk_is_full)
    crowd.leaving, loads = False, []
    folder = tempfile.TemporaryDirectory(prefix="chaos-jobs-")  # not on the node's disk
    employers = [Employer(stage, number, seed, Path(folder.name)) for number in range(NUM_EMPLOYERS)]
    keeping = asyncio.create_task(stage.keep_daemon())
    watching = asyncio.create_task(stage.watch())
    try:
        async with asyncio.TaskGroup() as tasks:
            for number in range(NUM_STREAMS):
                tasks.create_task(crowd.stream(number))
            for number in range(NUM_WRITERS):
                tasks.create_task(crowd.write(number))
            tasks.create_task(operator.work())
            for employer in employers:
                tasks.create_task(employer.work())
            striking = tasks.create_task(striker.run(faults))
            while stage.clock() < duration_s or not striking.done():
                await asyncio.sleep(1.0)
                loads.append(os.getloadavg()[0])
            crowd.leaving = operator.leaving = True
            for employer in employers:
                employer.leaving = True
        await stage.until_whole(HEALED_WITHIN_S)
        await asyncio.sleep(0.5)  # for the watch to see it too
    finally:
        stage.ending = True
        for task in (keeping, watching):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        folder.cleanup()
    load = {"mean": round(sum(loads) / len(loads), 1), "most": max(loads)} if loads else {}
    return {"striker": striker, "operators": (operator, striker.operator), "load": load}


async def _journal(stage: Stage, checkpoint: Checkpoint) -> dict[str, Any]:
    through = VerifyJournalRequest(entry=checkpoint.entry, seal=checkpoint.seal)
    report = await stage.call(lambda client: client.verify_journal(through))
    if not report.sound or report.faults or report.num_unsealed:
        stage.fail(f"the journal is not intact: {report}")
    command = [sys.executable, "-c", _THALOOM, "audit", "verify"]
    said = await asyncio.to_thread(
        subprocess.run, command, env=stage.node.environment, capture_output=True, text=True, check=False
    )
    if said.returncode != 0:
        stage.fail(f"thaloom audit verify: {said.returncode} {said.stdout}{said.stderr}")
    actions = await stage.call(lambda client: client.actions(limit=1000))
    endings = Counter(f"{action.ending}{', resumed' if action.resumed else ''}" for action in actions)
    running = [action.id for action in actions if action.ending == "running"]
    if running:
        stage.fail(f"begun and never ended: {running}")
    return {"entries": report.last, "checked": report.num_checked, "sound": report.sound, "latest": dict(endings),
            "audit_verify": said.stdout.strip()}  # fmt: skip


async def _go_down(stage: Stage, mounts: int) -> None:
    await stage.call(lambda client: client.down())
    await asyncio.to_thread(stage.node.daemon.wait, PATIENCE_S)
    for line in left_behind(stage, mounts):
        stage.fail(f"left behind: {line}")


def report(found: dict[str, Any]) -> None:
    verdict: Verdict = found["verdict"]
    print(f"\n{verdict.requests} requests: " + ", ".join(f"{n} {name}" for name, n in verdict.outcomes.items()))
    print(
        f"failed by killed workers and doors: {verdict.failed_by_kills}; bound: {verdict.bound} requests in flight"
        f" on them when they were killed; the latest error {max((k.slowest_s for k in verdict.kills), default=0.0):.3f}"
        f" s after the death (allowed: {ERROR_WITHIN_S:g} s)"
    )
    print(f"{verdict.jobs} jobs in {verdict.attempts} attempts")
    print(f"on their way while a daemon died, and whole: {verdict.unhurt}")
    print(f"{'healed after, s':28} times  median     p95     max   alone  median     p95     max")
    for name, each in verdict.recoveries.items():
        print(
            f"{name:28}"
            + "  ".join(f"{s.count:6} {s.median:7.2f} {s.p95:7.2f} {s.max:7.2f}" for s in (each.all, each.alone))
        )
    for name in ("struck", "missed", "operators", "journal", "load_average", "most_streams_at_once"):
        print(f"{name}: {found[name]}")
    for failure in verdict.failures[:50]:
        print(f"FAILED: {failure}")
    print("no failure that no fault allows" if not verdict.failures else f"{len(verdict.failures)} failures")


def as_record(found: dict[str, Any], faults: list[Fault], given: argparse.Namespace) -> dict[str, Any]:
    verdict: Verdict = found.pop("verdict")
    told = asdict(verdict) | {"failed_by_kills": verdict.failed_by_kills, "bound": verdict.bound}
    return {
        "seed": given.seed,
        "minutes": given.minutes,
        "note": given.note,
        **told,
        **found,
        "schedule": to_json(faults),
    }


async def _main(faults: list[Fault], seed: int, duration_s: float) -> dict[str, Any]:
    with own_disk() as folder:
        async with stage_at(folder) as stage:
            try:
                return await run(stage, faults, seed, duration_s)
            finally:
                if kept := os.environ.get("CHAOS_LOGS"):
                    await asyncio.to_thread(_keep_logs, stage, Path(kept))


def _keep_logs(stage: Stage, place: Path) -> None:
    place.mkdir(parents=True, exist_ok=True)
    for path in (*(stage.node.home / "logs").iterdir(), stage.node.home / "daemon-test.log"):
        (place / path.name).write_bytes(path.read_bytes())
    (place / "facts.json").write_text(json.dumps(asdict(stage.facts)))


def own_namespace() -> list[str] | None:
    """What gives a program mounts of its own here; None: nothing does."""
    for words in (["unshare", "--mount"], ["unshare", "--user", "--map-root-user", "--mount"]):
        with contextlib.suppress(OSError):
            if subprocess.run([*words, "true"], capture_output=True, check=False).returncode == 0:
                return words
    return None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--gap", type=float, default=GAP_S, help="mean seconds from one fault to the next")
    parser.add_argument("--kinds", help=f"only these faults, by commas ({', '.join(KINDS)})")
    parser.add_argument("--replay", type=Path, help="a record, or a list of faults: their schedule again")
    parser.add_argument("--record", action="store_true", help="write benchmarks/records/<date>-chaos.json")
    parser.add_argument("--note", default="", help="for the record")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if not given.inside:
        words = own_namespace()
        if words is None:
            print("FAILED: this host gives no program mounts of its own (unshare): the node cannot have its own disk")
            return 1
        os.execvp(words[0], [*words, sys.executable, "-m", "tests.chaos", "--inside", *sys.argv[1:]])
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    duration_s = given.minutes * 60
    if given.replay is not None:
        record = json.loads(given.replay.read_text())
        faults = from_json(record)
        if isinstance(record, dict):
            given.seed, given.minutes = record.get("seed", given.seed), record.get("minutes", given.minutes)
            duration_s = given.minutes * 60
    else:
        kinds = KINDS if given.kinds is None else given.kinds.split(",")
        faults = make_schedule(given.seed, duration_s, gap_s=given.gap, kinds=kinds)
    begun = time.monotonic()
    found = asyncio.run(_main(faults, given.seed, duration_s))
    found["took_s"] = round(time.monotonic() - begun, 1)
    report(found)
    failed = bool(found["verdict"].failures)
    if given.record:
        sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
        from benchmarks.node import machine, write_record

        write_record("chaos", {**machine(), **as_record(found, faults, given)})
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
