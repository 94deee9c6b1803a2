"""What the door is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.models import make_model
from thaloom.base.clock import ManualClock
from thaloom.base.errors import DiskFull
from thaloom.base.ids import ServiceName
from thaloom.init.rounds.publishing import Publisher, TextFiles
from thaloom.kernel.models.store import ModelStore
from thaloom.kernel.models.types import ModelName
from thaloom.kernel.state.routes import RouteReader
from thaloom.kernel.state.types import Route


def route(phase: str = "loading") -> Route:
    return Route(
        name=ServiceName("a"),
        model="a",
        phase=phase,  # type: ignore[arg-type]
        sockets=(),
        context_length=None,
        created_at=0.0,
    )


def test_routes_are_published_when_they_are_new(tmp_path: Path) -> None:
    path = tmp_path / "routes.json"
    publisher = Publisher(path, tmp_path / "control.sock", ManualClock(3.0))
    assert publisher.publish((route(),))
    assert not publisher.publish((route(),))
    assert publisher.publish((route("ready"),))
    published = RouteReader(path).current()
    assert (published.version, published.published_at) == (2, 3.0)
    assert published.routes == (route("ready"),)
    assert published.control_socket == str(tmp_path / "control.sock")


def test_what_could_not_be_published_is_still_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the door went by old routes until something else changed."""
    path = tmp_path / "routes.json"
    publisher = Publisher(path, tmp_path / "control.sock", ManualClock(3.0))
    publisher.publish((route(),))

    def full(*_: object) -> None:
        raise DiskFull("no space left")

    with monkeypatch.context() as patched:
        patched.setattr("thaloom.init.rounds.publishing.publish", full)
        with pytest.raises(DiskFull):
            publisher.publish((route("ready"),))
    assert publisher.publish((route("ready"),))
    assert RouteReader(path).current().routes == (route("ready"),)


def test_a_new_daemon_publishes_even_what_looks_the_same(tmp_path: Path) -> None:
    path = tmp_path / "routes.json"
    for _ in range(2):
        assert Publisher(path, tmp_path / "control.sock", ManualClock()).publish(())


def test_routes_are_withdrawn_when_the_node_is_down(tmp_path: Path) -> None:
    path = tmp_path / "routes.json"
    publisher = Publisher(path, tmp_path / "control.sock", ManualClock())
    publisher.publish(())
    publisher.withdraw()
    publisher.withdraw()
    assert not path.exists()


def test_text_files_are_copied_once_and_swept_when_their_model_is_gone(tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "models", ManualClock())
    source = tmp_path / "source"
    make_model(source, family="llama")
    manifest = store.import_path(source, ModelName("tiny"))
    root = tmp_path / "tokenizers"
    root.mkdir()
    files = TextFiles(root)
    assert files.of(manifest.digest) == {}
    files.prepare(store.open(manifest))
    paths = files.of(manifest.digest)
    assert {"tokenizer.json", "config.json"} <= paths.keys()
    assert "model.safetensors" not in paths
    assert Path(paths["tokenizer.json"]).read_bytes() == (source / "tokenizer.json").read_bytes()
    before = Path(paths["tokenizer.json"]).stat().st_mtime_ns
    files.prepare(store.open(manifest))
    assert Path(paths["tokenizer.json"]).stat().st_mtime_ns == before
    files.keep_only([manifest.digest])
    assert files.of(manifest.digest) == paths
    files.keep_only([])
    assert files.of(manifest.digest) == {}
