"""Everything the command line says to people, in the language of the person."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Literal

from thaloom.user.cli.catalogue import TEXTS

Language = Literal["en", "zh"]
LANGUAGES: tuple[Language, ...] = ("en", "zh")
VARIABLES = ("THALOOM_LANG", "LC_ALL", "LC_MESSAGES", "LANG")


def language(environment: Mapping[str, str] = os.environ) -> Language:
    """The first of VARIABLES that is set decides: Chinese for `zh`, `zh_CN.UTF-8` ...; English for all else."""
    chosen = next((value for name in VARIABLES if (value := environment.get(name))), "")
    return "zh" if chosen.lower().startswith("zh") else "en"


def text(key: str, /, **values: Any) -> str:
    """The text of that key with its placeholders filled. An unknown key or a missing value is a bug of ours."""
    pattern = TEXTS[key][LANGUAGES.index(language())]
    return pattern.format(**values) if values else pattern


def has_text(key: str) -> bool:
    return key in TEXTS
