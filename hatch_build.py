"""Builds the native part of the CPU driver at install time, where there is a compiler; goes on without one. A wheel
gets the manual as well, written by the commands themselves.

One C++ file is compiled once for each level of the instruction set, side by side; the driver picks one at run time.
What was built, or why nothing was, is written to lib/BUILD_INFO.json, and the driver repeats it: an install without
the native part works, slowly, and says so.

Environment: CXX names the compiler; THALOOM_NATIVE=0 skips all of this.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ImportError:  # run by hand, without the build backend
    BuildHookInterface = None  # type: ignore[assignment,misc]

SOURCES = Path("native/cpu")
LIBRARIES = Path("src/thaloom/hal/drivers/cpu/lib")
INFO = "BUILD_INFO.json"
COMPILERS = ("c++", "g++", "clang++")
FLAGS = [
    *("-std=c++20", "-O3", "-fPIC", "-shared", "-pthread", "-Wall", "-Wextra"),
    *("-fvisibility=hidden", "-fno-exceptions", "-fno-rtti"),
    # A fused multiply-add is written where it is meant, and made nowhere else; nothing may be reordered.
    *("-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"),
]
LINK_FLAGS = ["-static-libstdc++", "-static-libgcc", "-Wl,--exclude-libs,ALL", "-Wl,--gc-sections", "-Wl,-s", "-lm"]
# Scheduled before registers are given out, a tile's loads are moved up until its sums no longer fit.
_ARM = ["-fno-schedule-insns"]
_V4 = ["-march=x86-64-v4", "-mprefer-vector-width=512"]
VARIANTS = {
    "x86_64": {
        "x86_64_v4_bf16": [*_V4, "-mavx512vnni", "-mavx512bf16"],
        "x86_64_v4_vnni": [*_V4, "-mavx512vnni"],
        "x86_64_v3_vnni": ["-march=x86-64-v3", "-mavxvnni"],
        "x86_64_v3": ["-march=x86-64-v3"],
        "x86_64_v2": ["-march=x86-64-v2"],
    },
    "aarch64": {
        # Not armv8.6-a, which has more than is used: Neoverse V1 is an 8.4 with these two.
        "aarch64_i8mm_bf16": [*_ARM, "-march=armv8.2-a+dotprod+fp16+i8mm+bf16"],
        "aarch64_dotprod": [*_ARM, "-march=armv8.2-a+dotprod+fp16"],
        "aarch64_neon": [*_ARM, "-march=armv8-a"],
    },
}
GENERIC = {"generic": ["-O3"]}
LIMIT_S = 600
"""Longest one compilation may take; it takes some ten seconds."""


def build(root: Path) -> dict[str, Any]:
    """Compile what is missing or old below `root`. Returns what BUILD_INFO.json says; never raises for a compiler."""
    folder = root / LIBRARIES
    folder.mkdir(parents=True, exist_ok=True)
    variants = VARIANTS.get(platform.machine(), GENERIC)
    if os.environ.get("THALOOM_NATIVE") == "0":
        return _nothing(folder, "it was not built because THALOOM_NATIVE=0")
    compiler = _compiler()
    digest = _digest(root)
    known = _read(folder)
    is_new = known.get("sources") == digest and not known.get("failed") and _all_there(folder, known.get("built", []))
    if is_new and (compiler is None or known.get("compiler") == _version(compiler)):
        return known
    if compiler is None:
        return _nothing(folder, "no C++ compiler was found when Thaloom was installed")
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        jobs = {name: pool.submit(_compile, compiler, root, name, flags) for name, flags in variants.items()}
        problems = {name: job.result() for name, job in jobs.items()}
    failed = {name: problem for name, problem in problems.items() if problem}
    for name in failed:
        _library(folder, name).unlink(missing_ok=True)
    info = {
        "sources": digest,
        "compiler": _version(compiler),
        "built": [name for name in variants if name not in failed],
        "failed": failed,
        "reason": next(iter(failed.values()), None),
    }
    _write(folder, info)
    return info


def _nothing(folder: Path, reason: str) -> dict[str, Any]:
    for library in folder.glob("*.so"):
        library.unlink()  # of other sources, or not wanted: a library that nobody vouches for must not be loaded
    info: dict[str, Any] = {"sources": None, "compiler": None, "built": [], "failed": {}, "reason": reason}
    _write(folder, info)
    return info


def _compiler() -> list[str] | None:
    wish = os.environ.get("CXX", "").split()
    if wish:
        return wish if shutil.which(wish[0]) else None
    return next(([name] for name in COMPILERS if shutil.which(name)), None)


def _compile(compiler: list[str], root: Path, name: str, flags: list[str]) -> str | None:
    """Compile one variant into place. Returns why it failed, or None."""
    target = _library(root / LIBRARIES, name)
    partial = target.with_suffix(f".{os.getpid()}.partial")
    source = root / SOURCES / "thaloom_cpu.cpp"
    command = [*compiler, *FLAGS, *flags, f'-DTHALOOM_VARIANT="{name}"', str(source), "-o", str(partial), *LINK_FLAGS]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{command[0]} could not be run: {error}"
    if done.returncode != 0:
        print(f"thaloom: compiling {name} failed: {' '.join(command)}\n{done.stderr}", file=sys.stderr)
        partial.unlink(missing_ok=True)
        errors = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines()
        return f"compiling {name} failed: {errors[0].strip() if errors else f'exit status {done.returncode}'}"
    if done.stderr:
        print(done.stderr, file=sys.stderr)
    partial.replace(target)
    return None


def _digest(root: Path) -> str:
    """Of everything a library depends on except the compiler."""
    digest = hashlib.sha256(repr((FLAGS, LINK_FLAGS, VARIANTS, GENERIC, platform.machine())).encode())
    for source in sorted((root / SOURCES).iterdir()):
        if source.suffix in (".h", ".cpp"):
            digest.update(source.name.encode() + b"\0" + source.read_bytes() + b"\0")
    return digest.hexdigest()


def _version(compiler: list[str]) -> str:
    try:
        done = subprocess.run([*compiler, "--version"], capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return (done.stdout.splitlines() or ["unknown"])[0]


def _library(folder: Path, name: str) -> Path:
    return folder / f"thaloom_cpu_{name}.so"


def _all_there(folder: Path, built: list[str]) -> bool:
    return bool(built) and all(_library(folder, name).is_file() for name in built)


def _read(folder: Path) -> dict[str, Any]:
    try:
        info = json.loads((folder / INFO).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return info if isinstance(info, dict) else {}


def _write(folder: Path, info: dict[str, Any]) -> None:
    (folder / INFO).write_text(json.dumps(info, indent=2) + "\n", encoding="utf-8")


def contribute(root: Path, version: str, build_data: dict[str, Any]) -> str | None:
    """Build for a wheel, and tell the backend what goes into it. Returns why something is missing, or None.

    An editable install uses the libraries where they are, so its wheel holds none.
    """
    info = build(root)
    if version != "editable":
        for file in (INFO, *(f"thaloom_cpu_{name}.so" for name in info["built"])):
            build_data["force_include"][str(root / LIBRARIES / file)] = f"thaloom/hal/drivers/cpu/lib/{file}"
        if info["built"]:
            platform_tag = sysconfig.get_platform().replace("-", "_").replace(".", "_")
            build_data["pure_python"] = False
            build_data["tag"] = f"py3-none-{platform_tag}"
    reason: str | None = info["reason"]
    return reason


def contribute_manual(root: Path, folder: Path, build_data: dict[str, Any]) -> str | None:
    """Write the manual below `folder`, and tell the backend: `man` looks in share/man beside a program's own folder,
    in a virtual environment too. Returns why there is none, or None."""
    places = [str(root / "src"), *filter(None, [os.environ.get("PYTHONPATH")])]
    command = [sys.executable, "-m", "thaloom.user.cli.manual", str(folder)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(places)}
    try:
        subprocess.run(command, env=environment, capture_output=True, text=True, timeout=LIMIT_S, check=True)
    except subprocess.CalledProcessError as error:
        return (error.stderr.splitlines() or [f"exit status {error.returncode}"])[-1]
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    build_data["shared_data"][str(folder)] = "share/man"
    return None


if BuildHookInterface is not None:

    class CustomBuildHook(BuildHookInterface[Any]):
        """Called by hatchling. A source distribution carries the sources, so nothing is built for it."""

        def initialize(self, version: str, build_data: dict[str, Any]) -> None:
            self.manual: str | None = None
            if self.target_name != "wheel":
                return
            reason = contribute(Path(self.root), version, build_data)
            if reason:
                self.app.display_warning(f"The native CPU library is missing or not complete: {reason}.")
            if version != "editable":
                self.manual = tempfile.mkdtemp(prefix="thaloom-manual")
                reason = contribute_manual(Path(self.root), Path(self.manual), build_data)
                if reason:
                    self.app.display_warning(f"The manual is missing: {reason}.")

        def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:  # noqa: ARG002
            if self.manual is not None:
                shutil.rmtree(self.manual)


if __name__ == "__main__":
    outcome = build(Path(__file__).parent)
    print(f"built: {', '.join(outcome['built']) or 'nothing'}")
    sys.exit(f"thaloom: {outcome['reason']}" if outcome["reason"] else 0)
