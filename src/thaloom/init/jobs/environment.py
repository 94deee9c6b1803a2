"""The variables a job's program starts with: few of ours, its own, and its secrets, read at the last moment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from thaloom.base.errors import BadParameter
from thaloom.kernel.state.jobs.types import MAX_ENVIRONMENT_BYTES, JobSpec

MARK = "THALOOM_JOB_MARK"
"""By this variable the processes of an attempt are found where there are no control groups."""
_HANDED_ON = ("LANG", "LC_ALL", "LC_CTYPE", "TZ")


def variables(
    spec: JobSpec, *, attempt: int, folder: str, mark: str, devices: tuple[str, ...], inherited: Mapping[str, str]
) -> dict[str, str]:
    """All of them. Raises BadParameter for a secret that cannot be read; it names the variable, never the value."""
    own = {name: inherited[name] for name in _HANDED_ON if name in inherited}
    own |= {
        "PATH": inherited.get("PATH", os.defpath),
        "HOME": folder,
        "PWD": folder,
        "THALOOM_JOB": spec.name,
        "THALOOM_JOB_ATTEMPT": str(attempt),
        "THALOOM_DEVICES": ",".join(devices),
    }
    return own | spec.env | secrets(spec, inherited) | {MARK: mark}


def secrets(spec: JobSpec, inherited: Mapping[str, str]) -> dict[str, str]:
    """Raises BadParameter."""
    found = {name: _secret(name, reference, inherited) for name, reference in spec.secrets.items()}
    if sum(len(value) for value in found.values()) > MAX_ENVIRONMENT_BYTES:
        raise BadParameter(f"secrets may have at most {MAX_ENVIRONMENT_BYTES} characters in all", param="secrets")
    return found


def _secret(name: str, reference: str, inherited: Mapping[str, str]) -> str:
    kind, _, place = reference.partition(":")
    if kind == "env":
        if place not in inherited:
            raise BadParameter(f"secret {name!r}: the node has no variable {place!r}", param="secrets")
        value = inherited[place]
    else:
        folder = inherited.get("CREDENTIALS_DIRECTORY", "") if kind == "credential" else "/"
        if not folder:
            raise BadParameter(f"secret {name!r}: systemd gave this node no credentials", param="secrets")
        value = _read(name, Path(folder) / place.lstrip("/"))
    if "\0" in value:
        raise BadParameter(f"secret {name!r} holds a zero byte, which no variable can", param="secrets")
    return value


def _read(name: str, path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(MAX_ENVIRONMENT_BYTES + 1).decode("utf-8", "surrogateescape").removesuffix("\n")
    except OSError as error:
        raise BadParameter(f"secret {name!r} cannot be read: {path}: {error.strerror}", param="secrets") from error
