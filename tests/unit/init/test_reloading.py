"""config.toml read again: what can change does, what cannot is named, what is wrong changes nothing."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from thaloom.base.events import Recorder
from thaloom.init.boot import NodeConfig, read_config
from thaloom.init.events import ConfigRefused, ConfigReloaded
from thaloom.init.reloading import LIVE, Reloading


class Reload:
    """A node's settings in a file, and who heeds them."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "config.toml"
        self.events = Recorder()
        self.applied: list[NodeConfig] = []
        self.reloading = Reloading(NodeConfig(), lambda: read_config(self.path, {}), self.applied.append, self.events)

    def __call__(self, text: str) -> bool:
        self.path.write_text(text)
        return self.reloading.reload()


def test_what_can_change_does_and_what_cannot_is_named(tmp_path: Path) -> None:
    reload = Reload(tmp_path)
    assert reload('log_level = "debug"\nport = 7000\nair_gap = true\nmemory_headroom_bytes = 1\n')
    assert reload.applied == [NodeConfig(log_level="debug", air_gap=True)]
    assert reload.reloading.settings == reload.applied[0]
    (told,) = reload.events.of(ConfigReloaded)
    assert set(told.changed) == {"log_level", "air_gap"}
    assert set(told.need_restart) == {"port", "memory_headroom_bytes"}


def test_what_waits_for_a_restart_is_named_each_time_and_no_more_when_it_is_back(tmp_path: Path) -> None:
    reload = Reload(tmp_path)
    reload("port = 7000\n")
    reload("port = 7000\n")
    reload("")
    assert [told.need_restart for told in reload.events.of(ConfigReloaded)] == [("port",), ("port",), ()]


def test_a_file_that_cannot_be_read_changes_nothing(tmp_path: Path) -> None:
    reload = Reload(tmp_path)
    reload('log_level = "debug"\n')
    for text in (
        "log_level = ",
        "no_such_key = 1",
        "port = 0",
        'log_level = "loud"',
        'host = "0.0.0.0"\nrequire_keys = false',
    ):
        assert not reload(text)
    assert reload.reloading.settings == NodeConfig(log_level="debug")
    assert len(reload.applied) == 1
    told = [event.message for event in reload.events.of(ConfigRefused)]
    assert len(told) == 5
    assert all(str(reload.path) in message for message in told[:4])


def test_every_setting_that_changes_at_once_is_one(tmp_path: Path) -> None:
    assert {field.name for field in dataclasses.fields(NodeConfig)} >= LIVE
