"""Models: what is in the store, what comes into it, and in which form."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from thaloom.base.air_gap import RefusedCall
from thaloom.base.errors import BadParameter
from thaloom.init.acting.encryption import ConvertModel, ConvertWish
from thaloom.init.acting.kinds import Aid, Named, call
from thaloom.init.acting.models import (
    CopyModel,
    CopyWish,
    ImportModel,
    ImportWish,
    PullModel,
    PullWish,
    QuantiseModel,
    RemoveModel,
    RemovePull,
    SmallerWish,
)
from thaloom.init.errands.progress import OnProgress, with_progress
from thaloom.init.syscalls.asking import Asking
from thaloom.kernel.models.bundled import NAMES, bundled_model
from thaloom.kernel.models.pulling.sources import is_hub_name, parse_source
from thaloom.kernel.models.types import (
    HubModel,
    HubSettings,
    Manifest,
    ModelName,
    QuantiseWish,
    UnfinishedPull,
    Verification,
)


class ModelCalls(Asking):
    """Of models."""

    async def models(self) -> Sequence[Manifest]:
        return await asyncio.to_thread(self._node.models.list)

    async def model(self, name: ModelName) -> Manifest:
        return await asyncio.to_thread(self._node.models.get, name)

    def source(self, source: str) -> Path | HubModel:
        path = Path(source)
        found = path if path.is_absolute() else bundled_model(source)
        if found is not None:
            return found
        if not is_hub_name(source):
            raise BadParameter(
                f"{source!r} is neither an absolute path, nor the name of a model that came with Thaloom "
                f"({', '.join(map(repr, NAMES))}), nor a model of a hub (org/name, hf://, ms://, https://)",
                param="source",
            )
        return parse_source(source)

    async def pull(
        self, path: Path, name: ModelName | None, *, replace: bool, encrypt: bool | None, progress: OnProgress
    ) -> Manifest:
        wish = ImportWish(path=str(path), name=_text(name), replace=replace, encrypt=self._whether_to_encrypt(encrypt))
        return await self._made(ImportModel.name, wish, Aid(progress=progress))

    async def pull_from_hub(
        self,
        model: HubModel,
        settings: HubSettings,
        name: ModelName | None,
        *,
        replace: bool,
        read_through: bool,
        encrypt: bool | None,
        progress: OnProgress,
    ) -> Manifest:
        wish = PullWish(
            model=model,
            name=_text(name),
            replace=replace,
            read_through=read_through,
            encrypt=self._whether_to_encrypt(encrypt),
        )
        return await self._made(PullModel.name, wish, Aid(progress=progress, secrets={"settings": settings}))

    async def unfinished_pulls(self) -> Sequence[UnfinishedPull]:
        return await self._node.pulls.unfinished()

    async def remove_pull(self, source: str) -> str:
        await self._do(call(RemovePull.name, Named(name=source)))
        return source

    async def refused_calls(self) -> tuple[str | None, Sequence[RefusedCall]]:
        return await self._node.pulls.refused_calls()

    async def verify(self, name: ModelName, progress: OnProgress) -> Verification:
        return await with_progress(lambda tell: self._node.models.verify(name, tell), "verifying", progress)

    async def quantise(self, wish: QuantiseWish, progress: OnProgress) -> Manifest:
        if wish.text is not None and not Path(wish.text).is_absolute():
            raise BadParameter(f"{wish.text!r} is not an absolute path", param="text")
        smaller = SmallerWish(
            model=str(wish.model), to=wish.to, name=str(wish.name), replace=wish.replace, text=wish.text
        )
        return await self._made(QuantiseModel.name, smaller, Aid(progress=progress))

    async def copy_model(self, name: ModelName, to: ModelName, *, replace: bool) -> Manifest:
        return await self._made(CopyModel.name, CopyWish(name=str(name), to=str(to), replace=replace), Aid())

    async def remove_model(self, name: ModelName) -> None:
        await self._do(call(RemoveModel.name, Named(name=str(name))))

    async def convert_model(
        self, name: ModelName, to: ModelName | None, *, encrypted: bool, replace: bool, progress: OnProgress
    ) -> Manifest:
        wish = ConvertWish(name=str(name), to=_text(to), encrypted=encrypted, replace=replace)
        return await self._made(ConvertModel.name, wish, Aid(progress=progress))

    async def _made(self, kind: str, wish: Any, aid: Aid) -> Manifest:
        done = await self._do(call(kind, wish), aid=aid)
        if isinstance(done.given, Manifest):
            return done.given
        changed = (subject.removeprefix("model/") for subject in done.subjects if subject.startswith("model/"))
        return await asyncio.to_thread(self._node.models.get, done.told.get("model") or next(changed))

    def _whether_to_encrypt(self, asked: bool | None) -> bool:
        """Raises EncryptionKeyMissing and others before anything is read."""
        sealed = self._config.encrypt_models if asked is None else asked
        if sealed:
            self._node.vault()
        return sealed


def _text(name: ModelName | None) -> str | None:
    return None if name is None else str(name)
