"""What a plan refuses before there is one."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest

from thaloom.base.errors import NotServable
from thaloom.base.ids import ServiceName
from thaloom.init.placement import check_disk_tier
from thaloom.kernel.models.types import Manifest
from thaloom.kernel.state.types import ServiceSpec


def test_what_is_told_to_an_encrypted_model_never_lies_on_the_disk() -> None:
    spec = ServiceSpec(name=ServiceName("a"), model="m", kv_host_bytes=1 << 20, kv_disk_bytes=1 << 20)
    check_disk_tier(spec, cast(Manifest, SimpleNamespace(encrypted=False)))
    with pytest.raises(NotServable, match="encrypted") as caught:
        check_disk_tier(spec, cast(Manifest, SimpleNamespace(encrypted=True)))
    assert caught.value.param == "kv_disk_bytes"
