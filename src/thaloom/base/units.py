"""Quantities as people write them. Inside, bytes are `int` and durations are `float` seconds."""

from __future__ import annotations

import re

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

_FACTORS = {
    "": 1, "b": 1,
    "k": 10**3, "kb": 10**3, "m": 10**6, "mb": 10**6, "g": 10**9, "gb": 10**9, "t": 10**12, "tb": 10**12,
    "ki": KIB, "kib": KIB, "mi": MIB, "mib": MIB, "gi": GIB, "gib": GIB, "ti": 1024 * GIB, "tib": 1024 * GIB,
}  # fmt: skip
_DURATIONS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_QUANTITY = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*")


def parse_bytes(text: str) -> int:
    """`"512MiB"`, `"2G"`, `"1000"` as bytes. Raises ValueError on anything else."""
    match = _QUANTITY.fullmatch(text)
    if match is None or match[2].lower() not in _FACTORS:
        raise ValueError(f"not a size: {text!r} (write 512MiB, 2GB or a number of bytes)")
    return int(float(match[1]) * _FACTORS[match[2].lower()])


def parse_duration(text: str) -> float:
    """Seconds of `90`, `90s`, `15m`, `12h`, `30d`. Raises ValueError."""
    number, unit = (text[:-1], text[-1]) if text[-1:] in _DURATIONS else (text, "s")
    if not number.isascii() or not number.isdigit() or not 0 < int(number) * _DURATIONS[unit] <= 10**10:
        raise ValueError(f"not a duration: {text!r} (as 90s, 15m, 12h or 30d)")
    return float(int(number) * _DURATIONS[unit])


def parse_keep_alive(text: str) -> float:
    """Seconds as `parse_duration`; also 0 (no longer than it is asked) and -1 (always). Raises ValueError."""
    if text in ("0", "-1"):
        return float(text)
    try:
        return parse_duration(text)
    except ValueError as error:
        raise ValueError(f"not a duration: {text!r} (as 90s, 15m or 12h; 0: not at all, -1: always)") from error


def format_bytes(num_bytes: int) -> str:
    """The largest binary unit that leaves a number of at least one: `1.5 GiB`, `640 KiB`, `12 B`."""
    size = float(num_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(size) < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def format_duration(seconds: float) -> str:
    """Two leading units, as `3d 4h`, `2m 5s`, `0.25s`."""
    if seconds < 1:
        return f"{seconds:.2f}s"
    parts: list[str] = []
    left = int(seconds)
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, left = divmod(left, length)
        if count or (unit == "s" and not parts):
            parts.append(f"{count}{unit}")
    return " ".join(parts[:2])
