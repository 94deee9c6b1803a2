from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from thaloom.base.config import from_mapping, home, read_table, read_toml
from thaloom.base.errors import BadParameter


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    port: int = 7411
    host: str = "127.0.0.1"
    mode: Literal["a", "b"] = "a"

    def __post_init__(self) -> None:
        if not 0 < self.port < 65536:
            raise ValueError(f"port {self.port} is not a port")


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    door: Door = field(default_factory=Door)
    grace_s: float = 5.0
    folder: Path | None = None
    names: tuple[str, ...] = ()


def test_no_file_means_defaults(tmp_path: Path) -> None:
    assert read_toml(Node, tmp_path / "none.toml") == Node()


def test_a_file_is_read_into_the_tree(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text('grace_s = 2\nfolder = "/x"\nnames = ["a"]\n[door]\nport = 1\nmode = "b"\n')
    expected = Node(door=Door(port=1, mode="b"), grace_s=2.0, folder=Path("/x"), names=("a",))
    assert read_toml(Node, tmp_path / "c.toml") == expected


def test_one_table_of_a_file_is_read_and_the_rest_left_to_others(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    assert read_table(Door, path, "door") == Door()
    path.write_text('others = "know this"\n[door]\nport = 5\n')
    assert read_table(Door, path, "door") == Door(port=5)
    for wrong, told in (("door = 5", "'door' must be a table"), ("[door]\nprot = 5", "'door.prot'"), ("[", "c.toml")):
        path.write_text(wrong)
        with pytest.raises(BadParameter, match=told):
            read_table(Door, path, "door")


@pytest.mark.parametrize(
    ("text", "param"),
    [
        ("prot = 1", "prot"),
        ("[door]\nprot = 1", "door.prot"),
        ('[door]\nport = "1"', "door.port"),
        ("[door]\nport = true", "door.port"),
        ("[door]\nport = 0", "door"),
        ('[door]\nmode = "c"', "door.mode"),
        ("door = 1", "door"),
        ("folder = 1", "folder"),
        ("names = [1]", "names"),
    ],
)
def test_a_wrong_key_or_value_is_refused_by_name(tmp_path: Path, text: str, param: str) -> None:
    (tmp_path / "c.toml").write_text(text)
    with pytest.raises(BadParameter, match=r"c\.toml") as caught:
        read_toml(Node, tmp_path / "c.toml")
    assert caught.value.param == param


@pytest.mark.parametrize("data", [b"= 1", b"\xff\xfe", b"a = " + b"[" * 100_000])
def test_what_is_not_toml_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "c.toml").write_bytes(data)
    with pytest.raises(BadParameter, match=r"c\.toml"):
        read_toml(Node, tmp_path / "c.toml")


def test_only_dataclasses_are_settings() -> None:
    with pytest.raises(TypeError):
        from_mapping(int, {})


def test_the_home_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("THALOOM_HOME", str(tmp_path))
    assert home() == tmp_path
    monkeypatch.delenv("THALOOM_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert home() == tmp_path / ".thaloom"
