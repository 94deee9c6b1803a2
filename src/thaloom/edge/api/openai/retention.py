"""What `prompt_cache_retention` asks of the cache of prefixes."""

from __future__ import annotations

from thaloom.edge.wire.openai import CacheRetention
from thaloom.work.runtime.types import Pin

_DAY_S = 86_400.0


def pins(retention: CacheRetention | None) -> tuple[Pin, ...]:
    return (Pin(seconds=_DAY_S),) if retention == "24h" else ()
