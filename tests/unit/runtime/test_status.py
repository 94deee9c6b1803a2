"""What a worker says of itself that is worse than wished."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest

from thaloom.work.runtime.worker.loading import LoadedModel
from thaloom.work.runtime.worker.status import degraded

SHORT = SimpleNamespace(short="256 MiB must stay free")


@pytest.mark.parametrize(
    ("backend", "store", "says"),
    [
        (None, None, None),
        (None, SimpleNamespace(short=None), None),
        (None, SHORT, "the disk takes no more keys and values: 256 MiB must stay free"),
        ("no compiler", SHORT, "no compiler; the disk takes no more keys and values: 256 MiB must stay free"),
    ],
)
def test_all_that_is_worse_is_told(backend: str | None, store: object, says: str | None) -> None:
    model = SimpleNamespace(backend=SimpleNamespace(degraded=backend), store=store)
    assert degraded(cast(LoadedModel, model)) == says
