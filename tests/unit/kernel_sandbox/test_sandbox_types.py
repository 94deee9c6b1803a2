from __future__ import annotations

import pytest

from thaloom.base.errors import BadParameter
from thaloom.kernel.sandbox.types import Confinement, IoLimit, Limits


@pytest.mark.parametrize(
    "wrong",
    [
        {"cpu_permille": 0},
        {"memory_bytes": 0},
        {"memory_bytes": 1, "swap_bytes": -1},
        {"num_pids": 0},
        {"cpu_weight": 0},
        {"cpu_weight": 10_001},
        {"cpus": ()},
        {"cpus": (-1,)},
        {"swap_bytes": 0},
    ],
)
def test_a_limit_that_makes_no_sense_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(BadParameter):
        Limits(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("device", ["sda", "8", "8:", ":0", "8:0 ", "-1:0", "８:0"])
def test_a_device_is_two_numbers(device: str) -> None:
    with pytest.raises(BadParameter):
        IoLimit(device=device)


def test_a_rate_of_nothing_is_refused() -> None:
    with pytest.raises(BadParameter):
        IoLimit(device="8:0", read_bytes_s=0)


def test_what_is_asked_is_what_is_not_none() -> None:
    assert Limits().asked() == frozenset()
    asked = Limits(memory_bytes=1, swap_bytes=0, io=(IoLimit(device="8:0", read_bytes_s=1),)).asked()
    assert asked == {"memory", "swap", "io"}


@pytest.mark.parametrize("field", ["read", "write", "files", "devices", "hidden"])
def test_paths_are_absolute(field: str) -> None:
    with pytest.raises(BadParameter):
        Confinement(**{field: ("a/b",)})  # type: ignore[arg-type]
    with pytest.raises(BadParameter):
        Confinement(sockets="a")
