"""Environments of the peers' own, outside the repository: virtual environments and builds, each made once.

Everything is in one folder, $THALOOM_BENCH_CACHE or ~/.cache/thaloom-bench; removing it removes all of it. A stamp
beside each says what it was made of: asked for something else, it is made again.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.engine.engines import Unavailable


def cache() -> Path:
    """Where all of it is."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("THALOOM_BENCH_CACHE") or base / "thaloom-bench")


def run(command: Sequence[str | Path], log: Path) -> None:
    """A long command; what it says goes to `log`. Raises Unavailable with its last words."""
    log.parent.mkdir(parents=True, exist_ok=True)
    words = [str(word) for word in command]
    print("+", " ".join(words), file=sys.stderr, flush=True)
    with log.open("a") as file:
        try:
            done = subprocess.run(words, stdout=file, stderr=subprocess.STDOUT, check=False)
        except OSError as error:
            raise Unavailable(f"{words[0]}: {error.strerror}") from error
    if done.returncode:
        raise Unavailable(f"{words[0]} ended with {done.returncode}; {log} says:\n{log.read_text()[-1500:]}")


def virtual_environment(folder: Path, packages: Sequence[str], *, unwanted: Sequence[str] = ()) -> Path:
    """The interpreter of an environment with these packages and without `unwanted`. Raises Unavailable."""
    python = folder / "venv" / "bin" / "python"
    wanted = {"packages": list(packages), "unwanted": list(unwanted)}
    if is_made(folder, wanted):
        return python
    shutil.rmtree(folder / "venv", ignore_errors=True)
    log = folder / "install.log"
    pip: list[str | Path] = [python, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    run([sys.executable, "-m", "venv", folder / "venv"], log)
    run([*pip, "install", *packages], log)
    if unwanted:
        run([*pip, "uninstall", "--yes", *unwanted], log)
    stamp(folder, wanted)
    return python


def source_of(package: str, folder: Path) -> Path:
    """The newest source distribution of a package, unpacked. Raises Unavailable."""
    source = folder / "src"
    if is_made(folder / "src", {"package": package}):
        return source
    shutil.rmtree(source, ignore_errors=True)
    downloads = folder / "sdist"
    shutil.rmtree(downloads, ignore_errors=True)
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps"]
    run([*command, "--no-binary", ":all:", "--dest", downloads, package], folder / "install.log")
    (archive,) = downloads.glob("*.tar.gz")
    with tarfile.open(archive) as file:
        file.extractall(downloads, filter="data")
    (unpacked,) = (path for path in downloads.iterdir() if path.is_dir())
    unpacked.rename(source)
    stamp(source, {"package": package})
    return source


def cmake(source: Path, build: Path, settings: Sequence[str], targets: Sequence[str]) -> Path:
    """The folder of a Release build's programs. Raises Unavailable."""
    wanted = {"source": str(source), "settings": list(settings), "targets": list(targets)}
    if is_made(build, wanted):
        return build / "bin"
    log = build.with_suffix(".log")
    generator = ["-G", "Ninja"] if shutil.which("ninja") else []
    jobs = str(os.cpu_count() or 1)
    run(["cmake", "-S", source, "-B", build, *generator, "-DCMAKE_BUILD_TYPE=Release", *settings], log)
    run(["cmake", "--build", build, "-j", jobs, "--target", *targets], log)
    stamp(build, wanted)
    return build / "bin"


def is_made(folder: Path, wanted: object) -> bool:
    try:
        return bool(json.loads((folder / "made.json").read_text()) == wanted)
    except (OSError, ValueError):
        return False


def stamp(folder: Path, wanted: object) -> None:
    (folder / "made.json").write_text(json.dumps(wanted, indent=1) + "\n")
