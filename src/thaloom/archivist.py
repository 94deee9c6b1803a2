"""Backs up a node, or puts a backup back: a process of its own, which needs no running node and disturbs none.

    python -m thaloom.archivist backup TARGET [--models]
    python -m thaloom.archivist restore SOURCE [--replace]

The node is THALOOM_HOME's. Progress and the outcome are JSON lines on standard output, as other errands say them.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from thaloom.base import config
from thaloom.base.clock import SystemClock
from thaloom.base.errors import InternalError, StateUnusable, ThaloomError
from thaloom.init.backup.contents import BackupManifest
from thaloom.init.backup.restoring import restore
from thaloom.init.backup.taking import back_up
from thaloom.init.layout import Layout


def main(arguments: Sequence[str] | None = None) -> int:
    os.umask(0o077)
    asked = _parser().parse_args(arguments)
    try:
        outcome = _do(asked)
    except ThaloomError as error:
        _say({"error": error.to_dict()})
    except OSError as error:
        _say({"error": StateUnusable(f"{error.strerror}: {error.filename}").to_dict()})
    except Exception as error:  # noqa: BLE001 - the last word of a process: whoever waits is told
        _say({"error": InternalError(f"{type(error).__name__}: {error}").to_dict()})
    else:
        _say(outcome)
    return 0


def _do(asked: argparse.Namespace) -> dict[str, Any]:
    home = config.home()
    if asked.work == "backup":
        manifest = back_up(Layout(home), asked.place.absolute(), SystemClock(), models=asked.models, tell=_tell)
        return _told(manifest) | {"place": str(asked.place.absolute())}
    restored = restore(home, asked.place.absolute(), replace=asked.replace, tell=_tell)
    return _told(restored.manifest) | {
        "home": str(home),
        "before": restored.before,
        "models_kept": restored.models_kept,
    }


def _told(manifest: BackupManifest) -> dict[str, Any]:
    facts = dataclasses.asdict(manifest)
    del facts["entries"]
    return facts | {"num_files": len(manifest.entries), "num_bytes": manifest.num_bytes}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="thaloom-archivist", description="Back up a node, or restore it.")
    works = parser.add_subparsers(dest="work", required=True)
    taking = works.add_parser("backup")
    taking.add_argument("place", type=Path)
    taking.add_argument("--models", action="store_true")
    putting = works.add_parser("restore")
    putting.add_argument("place", type=Path)
    putting.add_argument("--replace", action="store_true")
    return parser


def _tell(stage: str, done: int, total: int | None) -> None:
    _say({"stage": stage, "done": done, "total": total})


def _say(message: dict[str, Any]) -> None:
    print(json.dumps(message), flush=True)


if __name__ == "__main__":
    sys.exit(main())
