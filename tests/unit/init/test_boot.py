"""Settings and the refusals before a node may be one."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path

import pytest

from thaloom.base import host_memory
from thaloom.base.errors import (
    AlreadyRunning,
    BadParameter,
    DiskFull,
    DriverUnavailable,
    Forbidden,
    PortTaken,
    StateUnusable,
)
from thaloom.base.ids import ServiceName, WorkerId
from thaloom.init.boot import (
    DEFAULT_PORT,
    NodeConfig,
    boot_error,
    listening,
    read_config,
    require_free_port,
    require_host_memory,
    take_home,
)
from thaloom.init.layout import Layout


def test_defaults(tmp_path: Path) -> None:
    settings = read_config(tmp_path / "config.toml", {})
    assert (settings.host, settings.port, settings.url) == ("127.0.0.1", DEFAULT_PORT, "http://127.0.0.1:7411")


def test_flags_over_environment_over_file(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text("port = 1001\nhost = '::1'\ntick_s = 1\n")
    assert read_config(path, {}).port == 1001
    assert read_config(path, {}).url == "http://[::1]:1001"
    assert read_config(path, {"THALOOM_PORT": "1002"}).port == 1002
    assert read_config(path, {"THALOOM_PORT": "1002"}, port=1003).port == 1003
    assert read_config(path, {"THALOOM_HOST": "localhost"}).host == "127.0.0.1"
    assert read_config(path, {"THALOOM_HOST": "0.0.0.0"}, host="127.0.0.2").host == "127.0.0.2"
    assert read_config(path, {"THALOOM_PORT": ""}).tick_s == 1.0


def test_how_much_the_door_keeps_is_read_and_checked_with_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text("[keep]\ndisk_share = 0.5\nmax_files = 7\n")
    assert read_config(path, {}).keep.max_files == 7
    for wrong in ("disk_share = 2.0", "max_bytes = 0", "max_file = 1"):
        path.write_text(f"[keep]\n{wrong}\n")
        with pytest.raises(BadParameter, match=wrong.split(" ")[0]):
            read_config(path, {})


@pytest.mark.parametrize(
    ("text", "param"),
    [
        ("colour = 'blue'", "colour"),
        ("port = 'high'", "port"),
        ("port = 0", "port"),
        ("port = true", "port"),
        ("log_level = 'loud'", "log_level"),
        ("tick_s = 0.0", "tick_s"),
        ("heartbeat_s = nan", "heartbeat_s"),
        ("stop_grace_s = 1e9", "stop_grace_s"),
        ("memory_headroom_bytes = -1", "memory_headroom_bytes"),
    ],
)
def test_a_wrong_setting_is_refused_by_file_and_name(tmp_path: Path, text: str, param: str) -> None:
    path = tmp_path / "config.toml"
    path.write_text(text)
    with pytest.raises(BadParameter, match=param) as refusal:
        read_config(path, {})
    assert refusal.value.param == param
    assert str(path) in refusal.value.message


def test_text_that_is_not_toml_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text("port = \n")
    with pytest.raises(BadParameter, match=r"config\.toml"):
        read_config(path, {})


@pytest.mark.parametrize("text", ["high", "-1", "70000", "１２", "1.5"])
def test_a_wrong_port_in_the_environment_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(BadParameter):
        read_config(tmp_path / "config.toml", {"THALOOM_PORT": text})


@pytest.mark.parametrize("host", ["example.org", "", "127.0.0.1.evil.org", "10.0.0", "0x7f.1", "fe80::1%eth0"])
def test_a_host_that_is_no_address_is_refused(host: str) -> None:
    with pytest.raises(BadParameter, match="no address") as refusal:
        listening(host, require_keys=True)
    assert refusal.value.param == "host"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.1", "2001:db8::1", "169.254.1.1"])
def test_beyond_loopback_keys_are_required(tmp_path: Path, host: str) -> None:
    with pytest.raises(Forbidden, match="require_keys") as refusal:
        listening(host, require_keys=False)
    assert refusal.value.param == "require_keys"
    path = tmp_path / "config.toml"
    path.write_text(f"host = '{host}'\nrequire_keys = false\n")
    with pytest.raises(Forbidden):
        read_config(path, {})
    path.write_text("require_keys = false\n")
    assert read_config(path, {}).host == "127.0.0.1"
    with pytest.raises(Forbidden):
        read_config(path, {"THALOOM_HOST": host})
    with pytest.raises(Forbidden):
        read_config(path, {}, host=host)


def test_beyond_loopback_the_door_speaks_tls_whatever_is_set() -> None:
    assert not NodeConfig().speaks_tls
    assert not NodeConfig(host="::1").speaks_tls
    assert NodeConfig(tls="always").address == "https://127.0.0.1:7411"
    for host in ("0.0.0.0", "::", "192.0.2.7", "2001:db8::1"):
        settings = NodeConfig(host=host)
        assert settings.speaks_tls, host
        assert settings.address.startswith("https://"), host
    assert NodeConfig(host="0.0.0.0").url == "https://127.0.0.1:7411", "as this machine reaches it"
    assert NodeConfig(host="::").url == "https://[::1]:7411"
    assert NodeConfig(host="192.0.2.7").url == "https://192.0.2.7:7411"


def test_the_table_of_the_door_is_checked(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    for wrong in ("tls_minimum = '1.1'", "certificate = 'pair.pem'", "key = '/k'", "names = ['a b']", "port = 1"):
        path.write_text(f"[door]\n{wrong}\n")
        with pytest.raises(BadParameter):
            read_config(path, {})
    path.write_text("[door]\ncertificate = '/c'\nkey = '/k'\nnames = ['gpu.example.org', '10.0.0.1']\n")
    assert read_config(path, {}).door.names == ("gpu.example.org", "10.0.0.1")
    path.write_text("tls = 'never'\n")
    with pytest.raises(BadParameter, match="tls"):
        read_config(path, {})


def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(BadParameter, match="no address of this machine"):
        require_free_port("198.51.100.7", 7411)


def test_the_second_node_of_a_home_is_told_who_has_it(tmp_path: Path) -> None:
    lock = take_home(tmp_path)
    try:
        with pytest.raises(AlreadyRunning) as refusal:
            take_home(tmp_path)
        assert refusal.value.details["pid"] == os.getpid()
    finally:
        lock.close()
    take_home(tmp_path).close()


def test_a_home_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Forbidden, match="folder of a node"):
        take_home(tmp_path / "file" / "home")


def test_a_taken_port_is_refused() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(PortTaken) as refusal:
            require_free_port("127.0.0.1", port)
        assert refusal.value.details == {"host": "127.0.0.1", "port": port}
    require_free_port("127.0.0.1", port)


def test_a_home_with_too_long_a_path_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadParameter, match="THALOOM_HOME"):
        Layout(tmp_path / ("x" * 100)).create()


def test_the_folders_of_a_home_are_for_its_user_alone(short_path: Path) -> None:
    layout = Layout(short_path / "h")
    layout.create()
    layout.create()
    assert layout.home.stat().st_mode & 0o077 == 0
    assert layout.worker_socket(WorkerId("w-1")).parent.parent == layout.workers  # in a folder of its own
    assert layout.service_log(ServiceName("a")) == layout.logs / "a.log"
    assert NodeConfig().address == "127.0.0.1:7411"


def test_a_start_that_fails_on_a_file_is_told_by_its_name() -> None:
    full = boot_error(OSError(errno.ENOSPC, "No space left on device", "/home/state"))
    assert isinstance(full, DiskFull)
    in_the_way = boot_error(ExceptionGroup("tasks", [FileExistsError(errno.EEXIST, "File exists", "/home/run")]))
    assert isinstance(in_the_way, StateUnusable)
    assert "/home/run" in in_the_way.message
    taken = PortTaken("port 1 is taken")
    assert boot_error(ExceptionGroup("tasks", [taken])) is taken


def test_a_start_that_fails_by_our_mistake_keeps_its_traceback() -> None:
    assert boot_error(KeyError("x")) is None
    assert boot_error(ExceptionGroup("tasks", [PortTaken("taken"), KeyError("x")])) is None


@pytest.mark.parametrize(
    ("text", "closed"), [("1", True), ("yes", True), ("ON", True), ("0", False), ("false", False), ("", False)]
)
def test_the_air_gap_is_a_switch_that_cannot_be_misread(tmp_path: Path, text: str, closed: bool) -> None:
    assert read_config(tmp_path / "config.toml", {"THALOOM_AIRGAP": text}).air_gap is closed
    (tmp_path / "config.toml").write_text("air_gap = true\n")
    assert read_config(tmp_path / "config.toml", {}).air_gap
    assert read_config(tmp_path / "config.toml", {"THALOOM_AIRGAP": "0"}).air_gap is False
    with pytest.raises(BadParameter, match="THALOOM_AIRGAP"):
        read_config(tmp_path / "config.toml", {"THALOOM_AIRGAP": "ture"})


def test_a_host_that_does_not_tell_its_memory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DriverUnavailable, match="/proc/meminfo"):
        require_host_memory(host_memory.total_bytes(tmp_path))
    assert require_host_memory(host_memory.total_bytes()) > 0
