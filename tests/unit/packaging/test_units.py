"""The files a distribution installs: what systemd itself says of them."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from thaloom.base import config
from thaloom.init.boot import NodeConfig, read_config
from thaloom.kernel.sandbox.v2 import NODE

ROOT = Path(__file__).parents[3]
UNIT = ROOT / "packaging" / "systemd" / "thaloom.service"
MOST_EXPOSURE = 25
"""Tenths: what `systemd-analyze security` may find at most."""


def run(*words: str) -> subprocess.CompletedProcess[str]:
    if shutil.which(words[0]) is None:
        pytest.skip(f"{words[0]} is not here: apt-get install systemd")
    return subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.packages
def test_the_unit_is_understood_word_for_word(tmp_path: Path) -> None:
    """Its programs are not installed here, so that others stand for them; and one word came with systemd 254."""
    standing_in = re.sub(r"/usr/bin/thaloomd\b", "/bin/true", UNIT.read_text())
    release = re.match(r"systemd (\d+)", run("systemd-analyze", "--version").stdout)
    assert release is not None
    if int(release.group(1)) < 254:
        standing_in = standing_in.replace("DelegateSubgroup=", "# ")
    (tmp_path / "thaloom.service").write_text(standing_in)
    done = run("systemd-analyze", "verify", "--man=no", str(tmp_path / "thaloom.service"))
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.packages
def test_the_unit_exposes_little() -> None:
    done = run("systemd-analyze", "security", "--offline=true", f"--threshold={MOST_EXPOSURE}", "--no-pager", str(UNIT))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Overall exposure level" in done.stdout


@pytest.mark.packages
def test_a_unit_that_exposes_more_would_be_found(tmp_path: Path) -> None:
    loose = UNIT.read_text().replace("ProtectSystem=strict\n", "").replace("NoNewPrivileges=yes\n", "")
    (tmp_path / "thaloom.service").write_text(loose)
    done = run(
        "systemd-analyze", "security", "--offline=true", f"--threshold={MOST_EXPOSURE}", "--no-pager",
        str(tmp_path / "thaloom.service"),
    )  # fmt: skip
    assert done.returncode != 0


@pytest.mark.packages
def test_the_user_and_the_folders_are_made(tmp_path: Path) -> None:
    """Into a root of the test's own."""
    for kind in ("sysusers", "tmpfiles"):
        folder = tmp_path / "usr" / "lib" / f"{kind}.d"
        folder.mkdir(parents=True)
        shutil.copy(ROOT / "packaging" / "systemd" / f"thaloom.{kind}", folder / "thaloom.conf")
    (tmp_path / "etc").mkdir()
    done = run("systemd-sysusers", f"--root={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert re.search(r"^thaloom:x:\d+:", (tmp_path / "etc" / "passwd").read_text(), re.MULTILINE)
    assert re.search(r"^render:x:\d+:thaloom", (tmp_path / "etc" / "group").read_text(), re.MULTILINE)
    done = run("systemd-tmpfiles", f"--root={tmp_path}", "--create", "thaloom.conf")
    assert done.returncode == 0, done.stderr
    home = tmp_path / "var" / "lib" / "thaloom"
    assert home.stat().st_mode & 0o777 == 0o700
    assert (home / "config.toml").is_symlink()


def test_the_unit_says_what_the_daemon_counts_on() -> None:
    parser = configparser.RawConfigParser(strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(UNIT)
    service = parser["Service"]
    assert service["Type"] == "notify"
    assert service["DelegateSubgroup"] == NODE, "the next daemon is let in beside workers that live"
    assert service["KillMode"] == "process", "workers and door outlive the daemon"
    assert service["RestartKillSignal"] == "SIGUSR2", "the daemon leaves them running"
    assert "-HUP" in service["ExecReload"]
    assert float(service["TimeoutStopSec"]) > NodeConfig().stop_grace_s
    assert service["LimitCORE"] == "0"
    assert service["MemorySwapMax"] == "0"


def test_the_settings_that_come_with_it_are_settings(tmp_path: Path) -> None:
    text = (ROOT / "packaging" / "config.toml").read_text()
    assert config.read_toml(NodeConfig, ROOT / "packaging" / "config.toml") == NodeConfig()
    told = tmp_path / "config.toml"
    told.write_text(re.sub(r"^# (\w+ = )", r"\1", text, flags=re.MULTILINE))
    assert read_config(told, {}) == NodeConfig(), "each line, when it is let in, says the default"
