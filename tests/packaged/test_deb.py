"""The Debian package: made of the wheel, whole by dpkg's own account, and its programs run from where it puts them."""

from __future__ import annotations

import importlib.util
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.system.node import free_port
from thaloom import __version__

pytestmark = [pytest.mark.slow, pytest.mark.packages, pytest.mark.timeout(900)]
ROOT = Path(__file__).parents[2]
WANTED = (
    "./usr/bin/thaloom",
    "./usr/bin/thaloomd",
    "./opt/thaloom/pyvenv.cfg",
    "./lib/systemd/system/thaloom.service",
    "./usr/lib/sysusers.d/thaloom.conf",
    "./usr/lib/tmpfiles.d/thaloom.conf",
    "./etc/thaloom/config.toml",
    "./usr/share/man/man1/thaloom.1.gz",
    "./usr/share/bash-completion/completions/thaloom",
    "./usr/share/zsh/vendor-completions/_thaloom",
    "./usr/share/fish/vendor_completions.d/thaloom.fish",
    "./usr/share/doc/thaloom/copyright",
)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("dpkg-deb") is None:
        pytest.skip("dpkg-deb is not here: apt-get install dpkg")
    folder = tmp_path_factory.mktemp("deb")
    built = [sys.executable, "-m", "build", "--quiet", "--wheel", "--outdir", str(folder), str(ROOT)]
    subprocess.run(built, check=True, timeout=600)
    (wheel,) = folder.glob("*.whl")
    made: Path = deb().build(wheel, folder)
    return made


def deb() -> ModuleType:
    spec = importlib.util.spec_from_file_location("deb", ROOT / "tools" / "deb.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def unpacked(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("root")
    subprocess.run(["dpkg-deb", "--extract", str(package), str(folder)], check=True)
    subprocess.run(["dpkg-deb", "--control", str(package), str(folder / "DEBIAN")], check=True)
    return folder


def told(package: Path, *words: str) -> str:
    return subprocess.run(["dpkg-deb", *words, str(package)], capture_output=True, text=True, check=True).stdout


def test_it_says_what_it_is_and_holds_what_it_should(package: Path) -> None:
    info, contents = told(package, "--info"), told(package, "--contents")
    for line in ("Package: thaloom", f"Version: {deb().debian_version(__version__)}", "Depends: python3"):
        assert line in info
    names = {line.split()[5] for line in contents.splitlines()}
    assert set(WANTED) <= names
    assert all(line.split()[1] == "root/root" for line in contents.splitlines())
    assert not [line for line in contents.splitlines() if line.startswith("-") and "w" in line[5:10]]
    assert not [
        name for name in names if name.endswith(".pyc") or ("/tests/" in name and "thaloom" in name.split("/")[-2])
    ]


def test_every_file_is_as_its_sums_say(unpacked: Path) -> None:
    done = subprocess.run(
        ["md5sum", "--check", "--quiet", "DEBIAN/md5sums"], cwd=unpacked, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_its_scripts_are_scripts(unpacked: Path) -> None:
    for name in ("postinst", "prerm", "postrm"):
        script = unpacked / "DEBIAN" / name
        assert script.stat().st_mode & stat.S_IXUSR
        subprocess.run(["sh", "-n", str(script)], check=True)


def test_no_file_names_the_machine_it_was_made_on(unpacked: Path) -> None:
    for folder in ("usr/bin", "lib/systemd", "etc"):
        for path in (unpacked / folder).rglob("*"):
            if path.is_file():
                assert sys.prefix not in path.read_text(), path
    assert (unpacked / "usr/bin/thaloom").read_text().startswith("#!/opt/thaloom/bin/python -P\n")


@pytest.fixture
def tmp_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short one: sockets lie in it."""
    return tmp_path_factory.mktemp("d")


@pytest.mark.hardware
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a mount namespace")
def test_its_programs_run_where_it_puts_them(unpacked: Path, tmp_path: Path) -> None:
    """In a mount namespace in which /opt is the package's, with the distribution's Python and nothing of ours."""
    if not Path("/usr/bin/python3.11").exists():
        pytest.skip("the package runs on the distribution's Python: apt-get install python3.11")
    scripts = "; ".join(
        [
            "set -e",
            f"mount --bind {unpacked}/opt /opt",
            f"{unpacked}/usr/bin/thaloom version",
            f"{unpacked}/usr/bin/thaloomd --version",
            "/opt/thaloom/bin/python -P -c 'import cryptography, sys; print(sys.prefix)'",
            f"{unpacked}/usr/bin/thaloom up -d --home {tmp_path}/h --port {free_port()} --json",
            f"{unpacked}/usr/bin/thaloom pull tiny --home {tmp_path}/h --json",
            f"{unpacked}/usr/bin/thaloom down --home {tmp_path}/h",
        ]
    )
    done = subprocess.run(
        ["unshare", "--mount", "--propagation", "private", "sh", "-c", scripts],
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert __version__ in done.stdout
    assert "/opt/thaloom" in done.stdout
    assert '"name": "tiny"' in done.stdout


def test_a_version_before_a_release_is_one_for_dpkg_too() -> None:
    assert deb().debian_version("1.0.dev3") == "1.0~dev3"
    assert deb().debian_version("1.0rc1") == "1.0~rc1"
    assert deb().debian_version("1.2.3") == "1.2.3"
