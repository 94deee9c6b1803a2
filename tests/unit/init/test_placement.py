"""What a plan refuses before there is one."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest

from thaloom.base.errors import NotServable
from thaloom.base.ids import ServiceName
from thaloom.base.units import GIB
from thaloom.init.memory.placement import check_disk_tier
from thaloom.kernel.models.types import Manifest
from thaloom.kernel.state.types import ServiceSpec

SPEC = ServiceSpec(name=ServiceName("a"), model="m", kv_host_bytes=GIB, kv_disk_bytes=2 * GIB)
PLAIN, ENCRYPTED = (cast(Manifest, SimpleNamespace(encrypted=encrypted)) for encrypted in (False, True))


def test_what_is_told_to_an_encrypted_model_never_lies_on_the_disk() -> None:
    check_disk_tier(SPEC, PLAIN, 2 * GIB)
    with pytest.raises(NotServable, match="encrypted") as caught:
        check_disk_tier(SPEC, ENCRYPTED, 2 * GIB)
    assert caught.value.param == "kv_disk_bytes"


def test_more_than_the_disk_has_is_refused_with_both_figures() -> None:
    with pytest.raises(NotServable, match=r"is 2.0 GiB; the node's disk has 1.0 GiB"):
        check_disk_tier(SPEC, PLAIN, GIB)
