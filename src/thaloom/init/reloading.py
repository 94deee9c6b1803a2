"""Reading config.toml again while the node runs: what can change does, what cannot is told by name.

A file that cannot be read changes nothing: the node goes on as it was, and says why.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from thaloom.base.errors import ThaloomError
from thaloom.base.events import Emit
from thaloom.init.boot import NodeConfig
from thaloom.init.events import ConfigRefused, ConfigReloaded

LIVE = frozenset(
    {
        "log_level",
        "stop_grace_s",
        "heartbeat_s",
        "tick_s",
        "require_keys",
        "air_gap",
        "hub_read_through",
        "engine_hosts",
        "encrypt_models",
        "door",
        "idle",
        "socket_users",
        "standby",
    }
)
"""Settings that take effect at once. All others wait for a restart; a new one does until it is put here."""


class Reloading:
    """Owner of the settings in force."""

    def __init__(
        self, settings: NodeConfig, read: Callable[[], NodeConfig], apply: Callable[[NodeConfig], None], emit: Emit
    ) -> None:
        """`read`: the settings as they would be at a start now; `apply` hands LIVE ones to whoever heeds them."""
        self.settings = settings
        self._read = read
        self._apply = apply
        self._emit = emit

    def reload(self) -> bool:
        """Whether the file could be read."""
        try:
            wanted = self._read()
        except (ThaloomError, OSError) as error:
            self._emit(ConfigRefused(message=error.message if isinstance(error, ThaloomError) else str(error)))
            return False
        names = [field.name for field in dataclasses.fields(wanted)]
        differing = [name for name in names if getattr(wanted, name) != getattr(self.settings, name)]
        changed = tuple(name for name in differing if name in LIVE)
        waiting = tuple(name for name in differing if name not in LIVE)
        self.settings = dataclasses.replace(self.settings, **{name: getattr(wanted, name) for name in changed})
        self._apply(self.settings)
        self._emit(ConfigReloaded(changed=changed, need_restart=waiting))
        return True
