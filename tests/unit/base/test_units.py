import pytest

from thaloom.base.units import GIB, KIB, MIB, format_bytes, format_duration, parse_bytes, parse_duration


@pytest.mark.parametrize(
    ("text", "num_bytes"),
    [
        ("0", 0),
        ("1000", 1000),
        ("1k", 1000),
        ("1 KiB", KIB),
        ("1.5MiB", 3 * MIB // 2),
        ("2g", 2 * 10**9),
        ("3Gi", 3 * GIB),
    ],
)
def test_sizes_as_people_write_them(text: str, num_bytes: int) -> None:
    assert parse_bytes(text) == num_bytes


@pytest.mark.parametrize("text", ["", "many", "-1", "1 XB", "1e3", "0x10", "1 2"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a size"):
        parse_bytes(text)


def test_sizes_for_people() -> None:
    assert [format_bytes(n) for n in (0, 1023, KIB, 3 * MIB // 2, 5 * GIB, 2048 * GIB)] == [
        "0 B", "1023 B", "1.0 KiB", "1.5 MiB", "5.0 GiB", "2.0 TiB",
    ]  # fmt: skip


def test_durations_for_people() -> None:
    assert [format_duration(s) for s in (0.25, 1, 59, 61, 3600, 90061)] == [
        "0.25s",
        "1s",
        "59s",
        "1m 1s",
        "1h",
        "1d 1h",
    ]


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90.0), ("90s", 90.0), ("15m", 900.0), ("12h", 43200.0), ("1d", 86400.0)]
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "s", "soon", "-1s", "1.5h", "0", "0d", "²s", "99999999999d"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="not a duration"):
        parse_duration(text)
