"""The certificate of this node's door: which one is in force, made and changed without closing a connection.

The node's own pair is one file, `door.pem`; the one before it stays beside it, so that a change can be undone. Where
`[door] certificate` names files, they are somebody else's: read again at every reload, never written.

The door reads the pair itself. Here it is looked at first, so that what is bad is refused by name before the door hears
of it; then the door is told by SIGHUP, and looked at until it shows the new one.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

from thaloom.base.clock import Clock
from thaloom.base.errors import CertificateMissing, StateUnusable, ThaloomError, WrongState
from thaloom.base.events import Degraded, Emit
from thaloom.base.files import disk_errors, sync_folder
from thaloom.init.boot import NodeConfig
from thaloom.init.events import CertificateChanged, CertificateExpiring
from thaloom.init.layout import Layout
from thaloom.init.rounds import probes
from thaloom.init.rounds.supervisor import Supervised
from thaloom.kernel.state.types import CertificateStatus, Condition
from thaloom.kernel.trust.certificates import DAY_S, Certificate, Pair, date, make_pair, read_files, require_in_force

WARN_S = 21 * DAY_S
"""Before its end; for one of a short life, a third of it."""
_SHOWN_WITHIN_S = 5.0
_POLL_S = 0.05
_LOOK_AGAIN_S = 3600.0


class Certificates:
    """Owner of the node's own pair, and of what is told of whichever is in force."""

    def __init__(
        self, layout: Layout, settings: NodeConfig, *, door: Callable[[], Supervised | None], clock: Clock, emit: Emit
    ) -> None:
        self._layout = layout
        self._settings = settings
        self._door = door
        self._clock = clock
        self._emit = emit
        self._pair: Pair | None = None
        self._problem: ThaloomError | None = None
        self._shown: str | None = None
        """What the door was last seen to show, by its fingerprint."""

    # -- reading

    def sweep(self) -> None:
        """Delete what a write that was killed left: there is key in it. And end what `put_back` began."""
        for partial in self._layout.home.glob(f"{self._layout.door_pair.name}*.partial"):
            partial.unlink(missing_ok=True)
        aside, present = self._present(self._layout.door_pair_aside), self._present(self._layout.door_pair)
        if aside is not None and (present is None or present.certificate != aside.certificate):
            self._keep_as_before()
        else:
            self._layout.door_pair_aside.unlink(missing_ok=True)

    def load(self) -> Pair | None:
        """Read what is to be in force; where it cannot, the one before stays and why is told. None: none is there."""
        try:
            pair = self._settings.door.read(self._layout.home)
            if self._pair is not None and pair.certificate != self._pair.certificate:
                require_in_force(pair, self._clock.now(), self._origin)
        except (ThaloomError, OSError) as error:
            typed = error if isinstance(error, ThaloomError) else StateUnusable(str(error))
            self._problem = typed
            if self._settings.speaks_tls or not isinstance(typed, CertificateMissing):
                self._emit(Degraded(subject="certificate", reason=type(typed).__name__, message=typed.message))
            return self._pair
        self._pair, self._problem = pair, None
        return pair

    def require(self) -> None:
        """Raises what keeps the door from showing a certificate, where it has to show one."""
        if self._settings.speaks_tls and self._pair is None and self._problem is not None:
            raise self._problem

    def use(self, settings: NodeConfig) -> None:
        """Heed other settings, and files that may be others by now."""
        self._settings = settings
        self.load()

    @property
    def own(self) -> bool:
        """Whether the pair is the node's to write."""
        return not self._settings.door.certificate

    @property
    def speaks_tls(self) -> bool:
        return self._settings.speaks_tls

    @property
    def current(self) -> Certificate | None:
        """Of the file, as it is now."""
        pair = self._present(self._layout.door_pair) if self.own else self._pair
        return None if pair is None else pair.certificate

    @property
    def previous(self) -> Certificate | None:
        pair = self._present(self._layout.door_pair_before)
        return None if pair is None else pair.certificate

    def status(self) -> CertificateStatus:
        pair, problem = self._pair, self._problem
        absent = isinstance(problem, CertificateMissing) and not self._settings.speaks_tls
        certificate = None if pair is None else pair.certificate
        return CertificateStatus(
            serving=self._settings.speaks_tls,
            own=self.own,
            origin=self._origin,
            fingerprint=None if certificate is None else certificate.fingerprint,
            names=() if certificate is None else certificate.names,
            not_before=None if certificate is None else certificate.not_before,
            not_after=None if certificate is None else certificate.not_after,
            issuer=None if certificate is None else certificate.issuer,
            self_signed=certificate is not None and certificate.self_signed,
            shown=self._shown,
            problem=None if problem is None or absent else problem.message,
            pem=None if pair is None else pair.public,
        )

    def conditions(self) -> tuple[Condition, ...]:
        """What people should know; `since` is left to whoever keeps it."""
        if not self._settings.speaks_tls:
            return ()
        told = []
        if self._problem is not None:
            told.append(("CertificateRefused", self._problem.message))
        certificate = None if self._pair is None else self._pair.certificate
        if certificate is not None and (word := self._ending(certificate)) is not None:
            told.append((word, self._end_in_words(certificate)))
        if certificate is not None and self._shown not in (None, certificate.fingerprint):
            told.append(("CertificateNotShown", "the door shows another certificate than the one in force"))
        return tuple(
            Condition(kind="Degraded", status=True, reason=reason, message=message, since=0.0)
            for reason, message in told
        )

    # -- writing: the node's own

    def make(self, names: Sequence[str], days: int) -> Certificate:
        """A new pair in the place of what is there. Raises BadParameter, WrongState, DiskFull, DriverUnavailable."""
        pair = make_pair(names, now=self._clock.now(), lifetime_days=days)
        self.put(pair)
        return pair.certificate

    def put(self, pair: Pair) -> None:
        """Have it in force, and keep the one before. Raises WrongState, DiskFull, OSError."""
        self.require_own()
        place, before = self._layout.door_pair, self._layout.door_pair_before
        present = self._present(place)
        if present is not None and present.certificate != pair.certificate:
            _write(before, present.text)
        _write(place, pair.text)
        self._took_effect()

    def put_back(self, fingerprint: str | None) -> None:
        """The one before, or (None) none at all. The two change places, and a kill loses neither (`sweep`)."""
        self.require_own()
        place, before = self._layout.door_pair, self._layout.door_pair_before
        if fingerprint is None:
            place.unlink(missing_ok=True)
            sync_folder(place.parent)
            self._pair = None
        else:
            pair, present = read_files(before, None), self._present(place)
            if present is not None and present.certificate != pair.certificate:
                _write(self._layout.door_pair_aside, present.text)
                _write(place, pair.text)
                self._keep_as_before()
            else:
                _write(place, pair.text)
        self._took_effect()

    def _keep_as_before(self) -> None:
        self._layout.door_pair_aside.replace(self._layout.door_pair_before)
        sync_folder(self._layout.home)

    def require_own(self) -> None:
        """Raises WrongState where the files are somebody else's."""
        if not self.own:
            raise WrongState(
                f"config.toml names the certificate ({self._settings.door.certificate!r}): replace that file and its "
                "key, then have the node read it again (systemctl reload, or SIGHUP)"
            )

    # -- the door

    async def show(self) -> bool | None:
        """Tell the door, and wait until it shows what is in force. None: there is no door that speaks TLS now."""
        door = self._door()
        if door is None or not door.alive or not door.lease.socket.startswith("https://") or self._pair is None:
            return None
        door.identity.send(signal.SIGHUP)
        wanted = self._pair.certificate.fingerprint
        deadline = self._clock.monotonic() + _SHOWN_WITHIN_S
        while True:
            self._shown = await probes.shown_fingerprint(door.lease.socket)
            if self._shown == wanted:
                return True
            if self._clock.monotonic() >= deadline:
                return False
            await self._clock.sleep(_POLL_S)

    async def watch(self) -> None:
        """Tell of an end that comes near: at once, then once a day."""
        told_at: float | None = None
        while True:
            certificate = None if self._pair is None else self._pair.certificate
            now = self._clock.now()
            near = certificate is not None and self._settings.speaks_tls and self._ending(certificate) is not None
            if near and certificate is not None and (told_at is None or now - told_at >= DAY_S):
                self._emit(
                    CertificateExpiring(
                        fingerprint=certificate.fingerprint,
                        not_after=certificate.not_after,
                        message=self._end_in_words(certificate),
                    )
                )
                told_at = now
            await self._clock.sleep(_LOOK_AGAIN_S)

    # -- below

    @property
    def _origin(self) -> str:
        return self._settings.door.certificate or str(self._layout.door_pair)

    def _took_effect(self) -> None:
        self.load()
        certificate = None if self._pair is None else self._pair.certificate
        self._emit(
            CertificateChanged(
                fingerprint=None if certificate is None else certificate.fingerprint,
                not_after=None if certificate is None else certificate.not_after,
            )
        )

    def _present(self, path: Path) -> Pair | None:
        with contextlib.suppress(ThaloomError):
            return read_files(path, None)
        return None

    def _ending(self, certificate: Certificate) -> str | None:
        left_s = certificate.not_after - self._clock.now()
        if left_s <= 0:
            return "CertificateExpired"
        soon = left_s < min(WARN_S, (certificate.not_after - certificate.not_before) / 3)
        return "CertificateExpiring" if soon else None

    def _end_in_words(self, certificate: Certificate) -> str:
        how = "thaloom cert renew" if self.own else f"replace {self._settings.door.certificate!r} and reload"
        over = self._clock.now() >= certificate.not_after
        return f"the certificate {'has expired' if over else 'expires'} on {date(certificate.not_after)} ({how})"


def _write(path: Path, text: bytes) -> None:
    """For the node's user alone from its first byte on."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    with disk_errors(path):
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
            sync_folder(path.parent)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise


async def read_in_thread(certificate: str, key: str | None) -> Pair:
    """Raises as `read_files`."""
    return await asyncio.to_thread(read_files, Path(certificate), None if key is None else Path(key))
