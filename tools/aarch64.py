"""Build and test the native library for 64-bit ARM on another machine: cross-compiled, run by qemu's user mode.

Nothing is made up for it: an aarch64 Python of the distribution, with NumPy and pytest from aarch64 wheels, runs this
tree's own hatch_build.py (so the install on such a machine is run too) and then its own tests, once on a processor of
each kind that a build is made for. A processor that lacks an instruction ends the process that uses it, so a build
that strays from what it may use fails, and so does the choice of one that cannot run.

What it cannot show is speed. The first run fetches packages (some 35 MB) into the cache folder.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "thaloom"
TREE = ROOT / "build" / "aarch64"
COMPILER = "aarch64-linux-gnu-g++"
NEEDED = {"qemu-aarch64": "qemu-user", COMPILER: "g++-aarch64-linux-gnu", "dpkg-deb": "dpkg", "apt-get": "apt"}
"""Programs, and the Debian packages they are in."""
PROCESSORS = (
    ("cortex-a72", "aarch64_neon"),  # Armv8.0
    ("neoverse-n1", "aarch64_dotprod"),  # Armv8.2 with dot products, without I8MM and BF16
    ("max", "aarch64_i8mm_bf16"),
)
"""Processors as qemu calls them, poorest first, and the build each must choose."""
PYTEST = ("-m", "pytest", "-q", "-n", "2", "-p", "no:cacheprovider", "--timeout", "0", "tests/unit/hal_cpu")
# A fork beside threads, and advice on pages, are more the emulator's own matter than ours.
LEFT_OUT = "not after_a_fork and not brings_pages and not commits_by_writing and not tried_again_and_then_refused"
SHORT = f"{LEFT_OUT} and not conformance_kit and not long_contexts"
"""Which tests. `--short`, for the lane: without the two that take most of the time, the tests of operators remain."""

DEBIAN = ("python3-minimal", "libpython3-stdlib", "zlib1g", "libstdc++6")
WHEELS = ("numpy", "msgspec", "pytest", "pytest-timeout", "pytest-xdist", "hypothesis")
PLATFORMS = ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux_2_17_aarch64", "manylinux2014_aarch64")
LAUNCHER = """#!/bin/sh
# The aarch64 Python beside this file. Its children find it under this name too.
exec qemu-aarch64 -0 "$0" -L '{root}' '{python}' "$@"
"""
CHOICE = """
import sys
from thaloom.hal.drivers.cpu import native
from thaloom.hal.drivers.cpu.probe import Machine
fitting = native.built_variants(Machine().device().features)
chosen = native.choose_here(Machine().device().features)
assert chosen.path is not None and chosen.degraded is None, chosen
assert native.load(chosen.path).variant == fitting[0] == sys.argv[1], (chosen, fitting, sys.argv)
assert fitting == sys.argv[1:], (fitting, sys.argv)
"""


def main() -> int:
    missing = [package for program, package in NEEDED.items() if shutil.which(program) is None]
    if missing:
        print(f"please install: {' '.join(missing)}   (as root: apt-get install {' '.join(missing)})", file=sys.stderr)
        return 1
    python = sysroot()
    copy_tree()
    run(python, "max", "hatch_build.py", CXX=COMPILER)
    for number, (processor, build) in enumerate(PROCESSORS):
        fitting = [name for _, name in reversed(PROCESSORS[: number + 1])]
        run(python, processor, "-c", CHOICE, *fitting)
        print(f"== {build} on {processor}", flush=True)
        chosen = SHORT if "--short" in sys.argv[1:] else LEFT_OUT
        run(python, processor, *PYTEST, "-k", chosen, THALOOM_CPU_VARIANT=build)
    return 0


def run(python: Path, processor: str, *arguments: str, **environment: str) -> None:
    """Python under emulation, in the copied tree. Raises CalledProcessError."""
    settings = {"QEMU_CPU": processor, "PYTHONPATH": "src", "PYTHONDONTWRITEBYTECODE": "1", **environment}
    subprocess.run([python, *arguments], cwd=TREE, env=os.environ | settings, check=True)


def copy_tree() -> None:
    """What the tests need of this tree, without the libraries of this machine; builds of earlier runs stay."""
    libraries = Path("src/thaloom/hal/drivers/cpu/lib")
    for name in ("src", "tests", "native"):
        for old in (TREE / name).rglob("*"):
            if old.is_file() and libraries not in old.relative_to(TREE).parents:
                old.unlink()
        hidden = shutil.ignore_patterns("__pycache__", "lib", "build")
        shutil.copytree(ROOT / name, TREE / name, ignore=hidden, dirs_exist_ok=True)
    for name in ("hatch_build.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, TREE / name)


def sysroot() -> Path:
    """The launcher of an aarch64 Python with what the tests import, made if it is not there yet."""
    recipe = (DEBIAN, WHEELS, PLATFORMS, LAUNCHER, (ROOT / "constraints.txt").read_text(encoding="utf-8"))
    folder = CACHE / f"aarch64-{hashlib.sha256(repr(recipe).encode()).hexdigest()[:12]}"
    if not folder.is_dir():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as work:
            make_sysroot(Path(work), folder)
    return folder / "python"


def make_sysroot(work: Path, target: Path) -> None:
    """In `work`, moved to `target` when whole. apt works in folders of its own: this machine stays as it is."""
    root = work / "root"
    (work / "state/lists/partial").mkdir(parents=True)
    (work / "cache/archives/partial").mkdir(parents=True)
    (work / "status").touch()
    settings = {
        "APT::Architecture": "arm64", "APT::Architectures": "arm64", "APT::Sandbox::User": "root",
        "Dir::State": work / "state", "Dir::State::status": work / "status", "Dir::Cache": work / "cache",
    }  # fmt: skip
    apt = ["apt-get", "-qq", *(word for name, value in settings.items() for word in ("-o", f"{name}={value}"))]
    subprocess.run([*apt, "update"], check=False)  # sources without packages for arm64 may complain
    subprocess.run([*apt, "install", "--download-only", "--no-install-recommends", "-y", *DEBIAN], check=True)
    for package in sorted((work / "cache/archives").glob("*.deb")):
        subprocess.run(["dpkg-deb", "-x", package, root], check=True)
    (interpreter,) = (root / "usr/bin").glob("python3.[0-9]*")
    platforms = [word for platform in PLATFORMS for word in ("--platform", platform)]
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary=:all:",
         *platforms, "--python-version", interpreter.name.removeprefix("python"), "--constraint",
         ROOT / "constraints.txt", "--target", root / "usr/local/lib" / interpreter.name / "dist-packages", *WHEELS],
        check=True,
    )  # fmt: skip
    launcher = work / "python"
    launcher.write_text(LAUNCHER.format(root=target / "root", python=target / "root/usr/bin" / interpreter.name))
    launcher.chmod(0o755)
    shutil.rmtree(work / "state")
    shutil.rmtree(work / "cache")
    work.rename(target)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except subprocess.CalledProcessError as error:
        sys.exit(f"failed: {' '.join(map(str, error.cmd))}")
