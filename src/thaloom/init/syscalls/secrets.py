"""The master key of encrypted models, and the certificate that the door shows."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from thaloom.base.actions import Call
from thaloom.base.errors import BadParameter
from thaloom.init.access.certificates import read_in_thread
from thaloom.init.acting.certificates import (
    CertificateWish,
    ImportCertificate,
    MakeCertificate,
    RenewalWish,
    RenewCertificate,
    TakeoverWish,
)
from thaloom.init.acting.encryption import MakeMasterKey, RotateMasterKey, RotationWish
from thaloom.init.acting.kinds import Aid, call
from thaloom.init.host_names import host_names
from thaloom.init.syscalls.asking import Asking
from thaloom.kernel.state.types import CertificateStatus, EncryptionStatus
from thaloom.kernel.trust.certificates import check_names


class SecretCalls(Asking):
    """Of the master key and the door's certificate."""

    async def encryption(self) -> EncryptionStatus:
        return await asyncio.to_thread(self._node.vault.status)

    async def make_master_key(self) -> str:
        done = await self._do(Call(MakeMasterKey.name))
        return str(done.told.get("key", ""))

    async def rotate_master_key(self, passphrase: str | None, key_file: str | None) -> str:
        if key_file is not None and not Path(key_file).is_absolute():
            raise BadParameter(f"{key_file!r} is not an absolute path", param="key_file")
        present = await asyncio.to_thread(self._node.vault.status)
        wish = RotationWish(instead_of=present.master, key_file=key_file)
        done = await self._do(call(RotateMasterKey.name, wish), aid=Aid(secrets={"passphrase": passphrase}))
        return str(done.told.get("key", ""))

    async def certificate(self) -> CertificateStatus:
        return self._node.certificates.status()

    async def make_certificate(self, names: Sequence[str] | None, days: int) -> CertificateStatus:
        told = tuple(names) if names is not None else self._own_names()
        await self._do(call(MakeCertificate.name, CertificateWish(names=check_names(told), days=days)))
        return self._node.certificates.status()

    async def renew_certificate(self, names: Sequence[str] | None, days: int) -> CertificateStatus:
        present = await asyncio.to_thread(lambda: self._node.certificates.current)
        told = tuple(names) if names is not None else self._own_names() if present is None else present.names
        wish = RenewalWish(
            instead_of="" if present is None else present.fingerprint, names=check_names(told), days=days
        )
        await self._do(call(RenewCertificate.name, wish))
        return self._node.certificates.status()

    async def import_certificate(self, certificate: str, key: str | None) -> CertificateStatus:
        for param, path in (("certificate", certificate), ("key", key)):
            if path is not None and not Path(path).is_absolute():
                raise BadParameter(f"{path!r} is not an absolute path", param=param)
        pair = await read_in_thread(certificate, key)
        wish = TakeoverWish(fingerprint=pair.certificate.fingerprint, certificate=certificate, key=key)
        await self._do(call(ImportCertificate.name, wish))
        return self._node.certificates.status()

    def _own_names(self) -> tuple[str, ...]:
        """What this machine is called, and what people call it."""
        host = () if self._config.host in ("0.0.0.0", "::") else (self._config.host,)
        return tuple(dict.fromkeys((*self._config.door.names, *host_names(), *host)))
