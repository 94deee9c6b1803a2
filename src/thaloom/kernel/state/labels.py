"""Labels: words that people put on what they wish for, to name several things at once."""

from __future__ import annotations

import re
from collections.abc import Mapping

from thaloom.base.errors import BadParameter

MAX_LABELS = 64
_KEY = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._/-]{0,126}[A-Za-z0-9])?")
_VALUE = re.compile(r"([A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?")


def check_labels(labels: Mapping[str, str], param: str = "labels") -> None:
    """Raises BadParameter that names the wrong one. As the field writes them, so that they mean the same elsewhere."""
    if len(labels) > MAX_LABELS:
        raise BadParameter(f"at most {MAX_LABELS} labels, not {len(labels)}", param=param)
    for key, value in labels.items():
        if not _KEY.fullmatch(key):
            raise BadParameter(
                f"not a label: {key!r} (up to 128 letters, digits, '.', '_', '-', '/')", param=f"{param}.{key}"
            )
        if not _VALUE.fullmatch(value):
            raise BadParameter(
                f"not a value for label {key!r}: {value!r} (up to 63 letters, digits, '.', '_', '-')",
                param=f"{param}.{key}",
            )


def matches(labels: Mapping[str, str], wanted: Mapping[str, str]) -> bool:
    """Whether all that are wanted are there."""
    return all(labels.get(key) == value for key, value in wanted.items())
