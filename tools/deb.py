"""Make dist/thaloom_VERSION_ARCH.deb of the wheel in dist/: `make deb`. Needs dpkg-deb; no root.

The package brings its own libraries, as a virtual environment at /opt/thaloom on the distribution's Python: what was
tested together runs together, and nothing of it is in the way of other programs (docs/decisions/0022).
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGING = ROOT / "packaging"
PLACE = Path("opt/thaloom")
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
PROGRAMS = {
    "thaloom": "from thaloom.user.cli import main; sys.exit(main())",
    "thaloomd": "from thaloom.daemon import main; sys.exit(main())",
}
PYTHON = f"python{sys.version_info.major}.{sys.version_info.minor}"
COMPLETIONS = {
    "bash": "usr/share/bash-completion/completions/thaloom",
    "zsh": "usr/share/zsh/vendor-completions/_thaloom",
    "fish": "usr/share/fish/vendor_completions.d/thaloom.fish",
}
CONTROL = """\
Package: thaloom
Version: {version}
Architecture: {architecture}
Maintainer: The Thaloom authors <thaloom@localhost>
Installed-Size: {kilobytes}
Depends: {python}, libc6, systemd
Section: science
Priority: optional
Description: AI-native operating layer: finds accelerators, keeps and serves models
 A node that keeps models, books every byte of memory that AI work uses, and
 serves the protocols of OpenAI, Anthropic and Ollama on loopback.
 .
 Its libraries are in /opt/thaloom and in nobody's way.
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--out", type=Path, default=ROOT / "dist")
    arguments = parser.parse_args()
    if shutil.which("dpkg-deb") is None:
        sys.exit("deb: there is no dpkg-deb here: apt-get install dpkg")
    print(build(arguments.wheel, arguments.out))
    return 0


def build(wheel: Path, out: Path) -> Path:
    """The package, made of that wheel. Raises CalledProcessError."""
    version = wheel.name.split("-")[1]
    architecture = ARCHITECTURES[platform.machine()]
    with tempfile.TemporaryDirectory(prefix="thaloom-deb") as folder:
        tree = Path(folder) / "tree"
        tree.mkdir(mode=0o755)
        install(wheel, tree)
        lay_out(tree)
        control(tree, version, architecture)
        out.mkdir(parents=True, exist_ok=True)
        package = out / f"thaloom_{version}_{architecture}.deb"
        partial = package.with_suffix(".partial")
        settle(tree)
        subprocess.run(
            ["dpkg-deb", "--root-owner-group", "--build", "-Zxz", tree, partial], check=True, stdout=sys.stderr
        )
        partial.replace(package)
    return package


def install(wheel: Path, tree: Path) -> None:
    """The wheel and what it needs, of the versions this tree was tested with, as a virtual environment in its place."""
    place = tree / PLACE
    packages = place / "lib" / PYTHON / "site-packages"
    subprocess.run(
        [
            sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile",
            "--target", packages, "--constraint", ROOT / "constraints.txt", f"{wheel.resolve()}[encryption]",
        ],
        check=True,
    )  # fmt: skip
    (place / "bin").mkdir()
    (place / "bin" / "python").symlink_to(f"/usr/bin/{PYTHON}")
    (place / "bin" / PYTHON).symlink_to("python")
    (place / "pyvenv.cfg").write_text("home = /usr/bin\ninclude-system-site-packages = false\n")
    shutil.rmtree(packages / "bin", ignore_errors=True)  # their first lines name this machine's Python
    manual = packages / "share" / "man"
    target = tree / "usr/share/man"
    for page in sorted(manual.rglob("*.[0-9]")):
        compress(page, target / page.relative_to(manual))
    shutil.rmtree(packages / "share", ignore_errors=True)


def lay_out(tree: Path) -> None:
    """Programs, units, settings, completions, licence."""
    for program, start in PROGRAMS.items():
        script = f"#!/{PLACE}/bin/python -P\nimport sys\n{start}\n"
        write(tree / "usr/bin" / program, script, mode=0o755)
    units = PACKAGING / "systemd"
    for source, target in (
        ("thaloom.service", "lib/systemd/system/thaloom.service"),
        ("thaloom.sysusers", "usr/lib/sysusers.d/thaloom.conf"),
        ("thaloom.tmpfiles", "usr/lib/tmpfiles.d/thaloom.conf"),
    ):
        write(tree / target, (units / source).read_text())
    write(tree / "etc/thaloom/config.toml", (PACKAGING / "config.toml").read_text())
    for shell, place in COMPLETIONS.items():
        write(tree / place, completion(tree, shell))
    write(tree / "usr/share/doc/thaloom/copyright", (ROOT / "LICENSE").read_text())


def completion(tree: Path, shell: str) -> str:
    packages = tree / PLACE / "lib" / PYTHON / "site-packages"
    done = subprocess.run(
        [
            sys.executable,
            "-P",
            "-c",
            "import sys; from thaloom.user.cli import main; sys.exit(main())",
            "completion",
            shell,
        ],
        env=os.environ | {"PYTHONPATH": str(packages), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def control(tree: Path, version: str, architecture: str) -> None:
    sizes = sum(path.stat().st_size for path in tree.rglob("*") if path.is_file() and not path.is_symlink())
    text = CONTROL.format(
        version=debian_version(version), architecture=architecture, python=PYTHON, kilobytes=sizes // 1024
    )
    folder = tree / "DEBIAN"
    write(folder / "control", text)
    write(folder / "conffiles", "/etc/thaloom/config.toml\n")
    for script in ("postinst", "prerm", "postrm"):
        write(folder / script, (PACKAGING / "debian" / script).read_text(), mode=0o755)
    files = sorted(
        path for path in tree.rglob("*") if path.is_file() and not path.is_symlink() and folder not in path.parents
    )
    sums = [f"{hashlib.md5(path.read_bytes()).hexdigest()}  {path.relative_to(tree)}\n" for path in files]
    write(folder / "md5sums", "".join(sums))


def debian_version(version: str) -> str:
    """`1.0.dev3` comes before `1.0` for a package as it does for Python."""
    return re.sub(r"\.?(dev|a|b|rc)(\d+)", r"~\1\2", version)


def settle(tree: Path) -> None:
    """As a package's files are: for everybody to read, for nobody but root to write."""
    for path in [tree, *tree.rglob("*")]:
        if path.is_symlink():
            continue
        executable = path.is_dir() or bool(path.stat().st_mode & 0o100)
        path.chmod(0o755 if executable else 0o644)


def compress(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.with_name(f"{target.name}.gz").write_bytes(gzip.compress(source.read_bytes(), 9, mtime=0))


def write(path: Path, text: str, *, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)


if __name__ == "__main__":
    sys.exit(main())
