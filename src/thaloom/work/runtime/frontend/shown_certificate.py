"""The certificate a door shows: read at its start, again when the node says so, and kept where the new one is bad."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

from thaloom.base import config
from thaloom.base.clock import Clock
from thaloom.base.errors import ThaloomError
from thaloom.base.events import Emit, Event, at_level
from thaloom.kernel.trust.certificates import Pair, require_in_force
from thaloom.kernel.trust.tls import DoorConfig, server_context


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateShown(Event):
    """From now on each new connection is shown this one."""

    fingerprint: str
    names: tuple[str, ...]
    not_after: float


@at_level("error")
@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateKept(Event):
    """The new certificate, or the table [door] of config.toml, cannot be used; the old one is shown on."""

    code: str
    message: str


class ShownCertificate:
    """For one event loop. Handshakes ask for `context`, the guard for `names`."""

    def __init__(self, home: Path, clock: Clock, emit: Emit) -> None:
        """Raises BadParameter, CertificateMissing, CertificateUnusable, Forbidden, DriverUnavailable. One that has
        expired is shown all the same: clients say so better than a door that does not open."""
        self._home = home
        self._clock = clock
        self._emit = emit
        self._use(*self._read())

    def context(self) -> ssl.SSLContext:
        return self._context

    @property
    def names(self) -> frozenset[str]:
        """Under which the door may be asked for, besides loopback's."""
        return self._names

    @property
    def not_after(self) -> float:
        return self._pair.certificate.not_after

    def reload(self) -> bool:
        """Whether what is there now is in force. Connections that are open keep the one they were shown."""
        try:
            settings, pair = self._read()
            if pair.certificate != self._pair.certificate:
                require_in_force(pair, self._clock.now(), settings.certificate or "the node's own certificate")
            self._use(settings, pair)
        except (ThaloomError, OSError) as error:
            code = error.code if isinstance(error, ThaloomError) else type(error).__name__
            self._emit(CertificateKept(code=code, message=str(error)))
            return False
        return True

    def _read(self) -> tuple[DoorConfig, Pair]:
        settings = config.read_table(DoorConfig, self._home / "config.toml", "door")
        return settings, settings.read(self._home)

    def _use(self, settings: DoorConfig, pair: Pair) -> None:
        self._context = server_context(pair, settings.tls_minimum)
        self._pair = pair
        told = pair.certificate
        self._names = frozenset(name.lower() for name in (*settings.names, *told.names))
        self._emit(CertificateShown(fingerprint=told.fingerprint, names=told.names, not_after=told.not_after))
