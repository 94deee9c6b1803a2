"""The door's certificate: made, renewed, taken over from files, and put back."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from thaloom.base.actions import Call, Change, Json, Plan
from thaloom.base.clock import Clock
from thaloom.base.errors import BadParameter, CertificateMissing, NameTaken, WrongState
from thaloom.init.access.certificates import Certificates, read_in_thread
from thaloom.init.acting.kinds import Aid, Done, call
from thaloom.kernel.trust.certificates import (
    LIFETIME_DAYS,
    MAX_LIFETIME_DAYS,
    Certificate,
    check_names,
    require_in_force,
)

_SUBJECT = "certificate"


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateWish:
    names: tuple[str, ...]
    days: int = LIFETIME_DAYS


@dataclass(frozen=True, slots=True, kw_only=True)
class RenewalWish:
    instead_of: str
    """The fingerprint of the one there is: so that it can be told whether this was done."""
    names: tuple[str, ...]
    days: int = LIFETIME_DAYS


@dataclass(frozen=True, slots=True, kw_only=True)
class TakeoverWish:
    fingerprint: str
    """Of the certificate as it was when it was asked for."""
    certificate: str
    """Absolute paths. `key` None: it is in the same file."""
    key: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReturnWish:
    fingerprint: str | None
    """None: no certificate at all."""


class MakeCertificate:
    """`certificate.make`: a key, and a certificate signed by itself."""

    name, parameters, outlives_caller = "certificate.make", CertificateWish, True

    def __init__(self, certificates: Certificates) -> None:
        self._certificates = certificates

    async def plan(self, given: CertificateWish) -> Plan:
        self._certificates.require_own()
        if self._certificates.current is not None:
            raise NameTaken("this node has a certificate already (thaloom cert renew puts a new one in its place)")
        return Plan(
            call=call(self.name, given),
            risk="low",
            changes=(Change(subject=_SUBJECT, before=None, after=_wished(given.names, given.days)),),
            undo=_return_to(None),
        )

    async def apply(self, given: CertificateWish, _: Aid) -> Done:
        return await _made(self._certificates, given.names, given.days)

    async def holds(self, given: CertificateWish) -> bool:
        present = self._certificates.current
        return present is not None and set(present.names) == set(check_names(given.names))


class RenewCertificate:
    """`certificate.renew`: a new key and certificate; connections that are open go on."""

    name, parameters, outlives_caller = "certificate.renew", RenewalWish, True

    def __init__(self, certificates: Certificates) -> None:
        self._certificates = certificates

    async def plan(self, given: RenewalWish) -> Plan:
        self._certificates.require_own()
        present = self._certificates.current
        if present is None:
            raise CertificateMissing("this node has no certificate yet (thaloom cert make)")
        if present.fingerprint != given.instead_of:
            raise WrongState("the certificate was changed meanwhile")
        after = _wished(given.names, given.days)
        return Plan(
            call=call(self.name, given),
            risk="medium",  # clients that pinned the old one turn away
            changes=(Change(subject=_SUBJECT, before=_record(present), after=after),),
            touches=_touched(self._certificates),
            undo=_return_to(present),
        )

    async def apply(self, given: RenewalWish, _: Aid) -> Done:
        return await _made(self._certificates, given.names, given.days)

    async def holds(self, given: RenewalWish) -> bool:
        present = self._certificates.current
        return present is not None and present.fingerprint != given.instead_of


class ImportCertificate:
    """`certificate.import`: a pair from files becomes the node's own. The files may go then."""

    name, parameters, outlives_caller = "certificate.import", TakeoverWish, True

    def __init__(self, certificates: Certificates, clock: Clock) -> None:
        self._certificates = certificates
        self._clock = clock

    async def plan(self, given: TakeoverWish) -> Plan:
        self._certificates.require_own()
        pair = await read_in_thread(given.certificate, given.key)
        if pair.certificate.fingerprint != given.fingerprint:
            raise WrongState(f"{given.certificate!r} was changed meanwhile")
        require_in_force(pair, self._clock.now(), given.certificate)
        present = self._certificates.current
        same = present is not None and present.fingerprint == given.fingerprint
        before = None if present is None else _record(present)
        return Plan(
            call=call(self.name, given),
            risk="medium",
            changes=() if same else (Change(subject=_SUBJECT, before=before, after=_record(pair.certificate)),),
            touches=_touched(self._certificates),
            undo=_return_to(present),
        )

    async def apply(self, given: TakeoverWish, _: Aid) -> Done:
        pair = await read_in_thread(given.certificate, given.key)
        await asyncio.to_thread(self._certificates.put, pair)
        return await _told(self._certificates, pair.certificate)

    async def holds(self, given: TakeoverWish) -> bool:
        present = self._certificates.current
        return present is not None and present.fingerprint == given.fingerprint


class PutBackCertificate:
    """`certificate.put_back`: what undoes the others."""

    name, parameters, outlives_caller = "certificate.put_back", ReturnWish, True

    def __init__(self, certificates: Certificates) -> None:
        self._certificates = certificates

    async def plan(self, given: ReturnWish) -> Plan:
        self._certificates.require_own()
        present, previous = self._certificates.current, self._certificates.previous
        if given.fingerprint is None and self._certificates.speaks_tls:
            raise WrongState("the door speaks TLS, and would have no certificate")
        if given.fingerprint is not None and (previous is None or previous.fingerprint != given.fingerprint):
            raise WrongState("only the certificate before the present one is kept, and it is another")
        after = None if given.fingerprint is None or previous is None else _record(previous)
        before = None if present is None else _record(present)
        return Plan(
            call=call(self.name, given),
            risk="medium",
            changes=(Change(subject=_SUBJECT, before=before, after=after),),
            touches=_touched(self._certificates),
            undo=None if after is None or present is None else _return_to(present),
            no_undo="make another (thaloom cert make)" if after is None or present is None else "",
        )

    async def apply(self, given: ReturnWish, _: Aid) -> Done:
        await asyncio.to_thread(self._certificates.put_back, given.fingerprint)
        return await _told(self._certificates, self._certificates.current)

    async def holds(self, given: ReturnWish) -> bool:
        present = self._certificates.current
        return (None if present is None else present.fingerprint) == given.fingerprint


def _wished(names: tuple[str, ...], days: int) -> Json:
    if not 1 <= days <= MAX_LIFETIME_DAYS:
        raise BadParameter(f"days must be 1 to {MAX_LIFETIME_DAYS}, not {days}", param="days")
    return {"names": list(check_names(names)), "days": days}


def _record(certificate: Certificate) -> Json:
    return {
        "fingerprint": certificate.fingerprint,
        "names": list(certificate.names),
        "not_after": certificate.not_after,
    }


def _return_to(certificate: Certificate | None) -> Call:
    fingerprint = None if certificate is None else certificate.fingerprint
    return call(PutBackCertificate.name, ReturnWish(fingerprint=fingerprint))


def _touched(certificates: Certificates) -> tuple[str, ...]:
    return ("door",) if certificates.speaks_tls else ()


async def _made(certificates: Certificates, names: tuple[str, ...], days: int) -> Done:
    return await _told(certificates, await asyncio.to_thread(certificates.make, names, days))


async def _told(certificates: Certificates, certificate: Certificate | None) -> Done:
    """Once the door shows it. One that does not is no reason to say that the change was not made: it is a condition."""
    shown = await certificates.show()
    return Done(told={"fingerprint": None if certificate is None else certificate.fingerprint, "shown": shown})
