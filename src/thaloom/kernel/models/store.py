"""The model store: every model this node keeps, by content.

    <root>/objects/ab/ab...     chunks of 4 MiB and trees (lists of chunks), each named by its SHA-256
    <root>/objects/ab/ab...sealed   a chunk of encrypted models, in cipher
    <root>/keyring.json         what opens those, wrapped by the master key (kernel.trust.key_ring)
    <root>/aliases/<sha256>     the tree of the file with that plain SHA-256
    <root>/manifests/n/t.json   a model: name, card, and the tree of each file; written last, removed first
    <root>/staging/             models of other formats while they are converted
    <root>/packed/              what drivers made of weights, to be made again if it is not there
    <root>/lock                 shared by importers and readers, exclusive for whoever deletes objects
    <root>/manifests.lock       exclusive for the moment in which a name is looked up and written

A kill at any moment leaves whole models and, at worst, objects nobody needs, which the next sweep deletes.
All methods block; call them from a thread. Several processes may use one store at once.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import re
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from thaloom.base.clock import Clock
from thaloom.base.errors import (
    BadParameter,
    CorruptObject,
    EncryptionKeyMissing,
    ModelInUse,
    ModelNotFound,
    NameTaken,
    RevisionConflict,
    StateUnusable,
)
from thaloom.base.events import Degraded, Emit, ignore
from thaloom.base.files import disk_errors, require_space
from thaloom.base.ids import Digest
from thaloom.kernel.models.events import FilesIgnored, ManifestUnreadable, ModelImported, ModelRemoved
from thaloom.kernel.models.locks import exclude, share, try_exclude
from thaloom.kernel.models.manifests import Manifests, digest_of_files
from thaloom.kernel.models.objects import BadObject, Objects
from thaloom.kernel.models.open_file import OpenFile
from thaloom.kernel.models.packed_cache import PackedCache
from thaloom.kernel.models.reading import PlainFile, StoredModel, WeightReader
from thaloom.kernel.models.sealed_objects import SUFFIX as SEALED
from thaloom.kernel.models.sealed_objects import KeySource, SealedObjects
from thaloom.kernel.models.sweep import Swept, sweep
from thaloom.kernel.models.trees import read_tree
from thaloom.kernel.models.types import CHUNK_BYTES, FileEntry, Manifest, ModelCard, ModelName, Verification
from thaloom.kernel.trust.sealed import StoreKey

if TYPE_CHECKING:  # what only an import of a model needs is loaded by it: a worker that starts has no time for that
    from thaloom.kernel.models.converting import Foreign
    from thaloom.kernel.models.import_files import Chosen
    from thaloom.kernel.models.importing import Progress


def no_key() -> StoreKey:
    """The KeySource of a process that was given none."""
    raise EncryptionKeyMissing("the model is encrypted, and this process was given no key")


class ModelStore:
    """See the module. `root` is made when the first model comes. `key`: asked for when an encrypted model is read."""

    def __init__(
        self,
        root: Path,
        clock: Clock,
        emit: Emit = ignore,
        *,
        chunk_bytes: int = CHUNK_BYTES,
        key: KeySource = no_key,
    ) -> None:
        self.root = root
        self._clock = clock
        self._emit = emit
        self._chunk_bytes = chunk_bytes
        self._objects = Objects(root / "objects")
        self._sealed = SealedObjects(root / "objects", key)
        self._manifests = Manifests(root / "manifests")
        self._aliases = root / "aliases"
        self._lock = root / "lock"
        self.packed = PackedCache(root / "packed")
        """What drivers made of models' weights."""

    def import_path(
        self,
        path: Path,
        name: ModelName | None = None,
        *,
        replace: bool = False,
        progress: Progress | None = None,
        source: str | None = None,
        encrypt: bool = False,
    ) -> Manifest:
        """Take the model at `path` (a folder, one safetensors or GGUF file) and give it `name`, else one from the path.
        `source`: where it is from, if not from there.

        Importing the same bytes under the same name again changes nothing and heals damaged objects. A model of
        another format (`foreign_model`) is converted first; `progress` then counts the bytes of both steps.
        `encrypt`: keep it in cipher; one that is encrypted stays so (`decrypt` alone makes it plain).
        Raises BadParameter, NameTaken (other bytes have that name and `replace` is false), UnsafeFormat,
        MalformedFile, NotServable (no weights), DiskFull, CorruptObject (a file changed meanwhile, or is not what
        SHA256SUMS says), StateUnusable (the store's own folder cannot be written), what the key's source raises.
        """
        from thaloom.kernel.models.converting import convert
        from thaloom.kernel.models.foreign import foreign_model, staged

        name = name or name_from(path)
        foreign = foreign_model(path)
        if foreign is None:
            return self._import(path, name, source or path, replace=replace, progress=progress, encrypt=encrypt)
        self._refuse_original(name, foreign, replace=replace)
        with _own_files(self.root):
            require_space(self.root, 2 * foreign.most_bytes)
            with staged(self.root) as folder:
                convert(foreign, folder, _first_half(foreign.most_bytes, progress))
                return self.import_staged(
                    folder, name, source or path, replace=replace, progress=progress, encrypt=encrypt
                )

    def import_staged(
        self,
        folder: Path,
        name: ModelName,
        source: Path | str,
        *,
        replace: bool,
        progress: Progress | None,
        encrypt: bool = False,
    ) -> Manifest:
        """Take what was made in a staging folder out of `source`, as the second half of the work. Raises as
        `import_path` does."""
        return self._import(folder, name, source, replace=replace, progress=_second_half(progress), encrypt=encrypt)

    def _import(
        self,
        path: Path,
        name: ModelName,
        source: Path | str,
        *,
        replace: bool,
        progress: Progress | None,
        encrypt: bool,
    ) -> Manifest:
        """What is at `path`, as it is."""
        from thaloom.kernel.models.import_card import make_card, unservable_dtypes
        from thaloom.kernel.models.import_files import choose
        from thaloom.kernel.models.import_weights import read_weights
        from thaloom.kernel.models.onnx import find_onnx, onnx_card

        if (onnx := find_onnx(path)) is not None:
            card = onnx_card(onnx)
            return self._keep(source, name, onnx, card, replace=replace, progress=progress, encrypt=encrypt)
        chosen = choose(path)
        weights = read_weights(chosen)
        card = make_card(chosen, weights)
        self._tell_ignored(path, chosen)
        if unservable := unservable_dtypes(weights):
            message = f"has tensors of {', '.join(unservable)}, which nothing here can run"
            self._emit(Degraded(subject=str(name), reason="UnservableDtype", message=message))
        return self._keep(source, name, chosen, card, replace=replace, progress=progress, encrypt=encrypt)

    def _keep(
        self,
        source: Path | str,
        name: ModelName,
        chosen: Chosen,
        card: ModelCard,
        *,
        replace: bool,
        progress: Progress | None,
        encrypt: bool,
    ) -> Manifest:
        encrypt = encrypt or self._is_encrypted(name)
        with _own_files(self.root):
            try:
                with share(self._lock):
                    return self._take(source, name, chosen, card, replace=replace, progress=progress, encrypt=encrypt)
            except BaseException:
                self.sweep()
                raise

    def staged_weights(self, folder: Path) -> WeightReader:
        """The weights in a staging folder, before they are taken."""
        reader = WeightReader(folder.name, share(self._lock))
        reader.add(PlainFile(folder / "model.safetensors"))
        return reader

    def list(self) -> list[Manifest]:
        """Every model, by name. One whose manifest is damaged is left out and told by an event."""
        found = []
        for name in self._manifests.names():
            try:
                manifest = self._manifests.read(name)
            except CorruptObject as error:
                self._emit(ManifestUnreadable(file=str(self._manifests.path(name)), problem=error.message))
                continue
            if manifest is not None:
                found.append(manifest)
        return sorted(found, key=lambda manifest: manifest.name)

    def get(self, name: ModelName | str) -> Manifest:
        """Raises ModelNotFound, which lists similar names; CorruptObject if its manifest is damaged."""
        name = ModelName.parse(name) if isinstance(name, str) else name
        manifest = self._manifests.read(name)
        if manifest is None:
            raise self._not_found(name)
        return manifest

    def open(self, manifest: Manifest) -> StoredModel:
        return StoredModel(manifest, self._objects, self._chunks(manifest.encrypted), self._lock)

    def files(self, manifest: Manifest) -> tuple[Path, ...]:
        """The files of the store that a reader of this model opens: for one that shall see no others. Of a damaged tree
        what is left of it."""
        found = [self._manifests.path(manifest.name)]
        chunks = self._chunks(manifest.encrypted)
        for tree in {file.tree for file in manifest.files}:
            found.append(self._objects.path(tree))
            with contextlib.suppress(BadObject):
                found += [chunks.path(digest) for digest in _chunks(self._objects, tree)]
        return tuple(dict.fromkeys(found))

    def open_file(self, manifest: Manifest, entry: FileEntry) -> OpenFile:
        """One file, to hand its bytes on. Nothing is swept until it is closed. Raises CorruptObject."""
        return OpenFile(entry, self._objects, self._chunks(manifest.encrypted), share(self._lock))

    def verify(self, name: ModelName | str, progress: Progress | None = None) -> Verification:
        """Read every byte of a model again. Raises ModelNotFound; damage is in the result, not raised."""
        from thaloom.kernel.models.verifying import verify

        manifest = self.get(name)
        with share(self._lock):
            return verify(manifest, self._objects, self._chunks(manifest.encrypted), progress)

    def convert(
        self,
        name: ModelName,
        to: ModelName | None = None,
        *,
        encrypted: bool,
        replace: bool = False,
        progress: Progress | None = None,
    ) -> Manifest:
        """Encrypt or decrypt a model, in its place or as a copy under the name `to`. Every byte is read, checked and
        written in the other form before the name changes hands; then what no model needs is deleted.

        Raises ModelNotFound, CorruptObject, NameTaken (`to` is another model and `replace` is false), RevisionConflict
        (somebody changed the model meanwhile), DiskFull, StateUnusable, what the key's source raises.
        """
        from thaloom.kernel.models.resealing import reseal

        present = self.get(name)
        made = dataclasses.replace(present, name=to or name, encrypted=encrypted)
        with _own_files(self.root):
            try:
                with share(self._lock):
                    if present.encrypted != encrypted:
                        source, target = self._chunks(present.encrypted), self._chunks(encrypted)
                        reseal(present, self._objects, source, target, progress)
                    made = self._publish(made, replace=replace, over=present)
            finally:
                self.sweep()
        return made

    def has_encrypted(self) -> bool:
        """Whether anything lies here in cipher. Looks at names only, until the first."""
        return any(path.name.endswith(SEALED) for path in self._objects.files())

    def copy(self, name: ModelName, to: ModelName, *, replace: bool = False) -> Manifest:
        """Give a model a second name; its objects are shared. Raises ModelNotFound, CorruptObject, NameTaken (other
        bytes have that name and `replace` is false), StateUnusable."""
        with _own_files(self.root), share(self._lock):  # what is shared cannot be swept away meanwhile
            copied = dataclasses.replace(self.get(name), name=to, created_at=self._clock.now())
            return self._publish(copied, replace=replace)

    def remove(self, name: ModelName | str, *, in_use: Callable[[Manifest], bool] | None = None) -> Swept:
        """Forget a model and delete what no other needs, at once or, while somebody imports or loads, later.

        Raises ModelNotFound; ModelInUse if `in_use` says so. A model whose manifest is damaged can be removed too.
        """
        name = ModelName.parse(name) if isinstance(name, str) else name
        with _own_files(self.root), exclude(self.root / "manifests.lock"):
            try:
                manifest = self._manifests.read(name)
            except CorruptObject:
                digest = None
            else:
                if manifest is None:
                    raise self._not_found(name)
                if in_use is not None and in_use(manifest):
                    raise ModelInUse(f"model {str(name)!r} is in use")
                digest = manifest.digest
            self._manifests.delete(name)
        self._emit(ModelRemoved(model=str(name), digest=digest))
        return self.sweep() or Swept(complete=False)

    def sweep(self) -> Swept | None:
        """Delete leftovers and objects no model needs; None, and nothing done, while anybody imports or loads."""
        from thaloom.kernel.models.foreign import clear_staging, leftovers

        if not self.root.is_dir():
            return Swept()
        lock = try_exclude(self._lock)
        if lock is None:
            return None
        with lock:
            unneeded = chain(leftovers(self.root), self.packed.unneeded(self._plain_digests()))
            swept = sweep(self._manifests, self._objects, self._aliases, unneeded, self._emit)
            clear_staging(self.root)
            return swept

    def _chunks(self, encrypted: bool) -> Objects:
        return self._sealed if encrypted else self._objects

    def _is_encrypted(self, name: ModelName) -> bool:
        with contextlib.suppress(CorruptObject):
            manifest = self._manifests.read(name)
            return manifest is not None and manifest.encrypted
        return False

    def _plain_digests(self) -> set[Digest]:
        """Of every model that can be read and is not encrypted: of those nothing is kept packed."""
        found = set()
        for name in self._manifests.names():
            with contextlib.suppress(CorruptObject):
                manifest = self._manifests.read(name)
                found |= {manifest.digest} if manifest and not manifest.encrypted else set()
        return found

    def _take(
        self,
        path: Path | str,
        name: ModelName,
        chosen: Chosen,
        card: ModelCard,
        *,
        replace: bool,
        progress: Progress | None,
        encrypt: bool,
    ) -> Manifest:
        self._refuse_other(name, chosen, replace=replace)
        from thaloom.kernel.models.import_files import printable
        from thaloom.kernel.models.importing import Intake

        intake = Intake(self._objects, self._chunks(encrypt), self._aliases, self._chunk_bytes, progress)
        intake.require_space(chosen.files)
        taken = intake.take(chosen.files, chosen.sums)
        manifest = Manifest(
            name=name,
            digest=digest_of_files(taken.entries),
            files=taken.entries,
            card=card,
            created_at=self._clock.now(),
            source=printable(str(path)),
            encrypted=encrypt,
        )
        kept = self._publish(manifest, replace=replace)
        self._emit(
            ModelImported(
                model=str(name),
                digest=manifest.digest,
                source=manifest.source,
                num_bytes=manifest.total_bytes,
                written_bytes=taken.written_bytes,
            )
        )
        return kept

    def _refuse_other(self, name: ModelName, chosen: Chosen, *, replace: bool) -> None:
        """Before gigabytes are copied: a model of that name whose files already differ by name or length."""
        if replace:
            return
        with contextlib.suppress(CorruptObject):  # a damaged manifest is healed
            present = self._manifests.read(name)
            ours = {(file.path, file.num_bytes) for file in chosen.files}
            if present is not None and {(file.path, file.num_bytes) for file in present.files} != ours:
                raise _name_taken(name)

    def _refuse_original(self, name: ModelName, foreign: Foreign, *, replace: bool) -> None:
        """The same before anything is converted: a model of that name that was made from something else."""
        if replace:
            return
        with contextlib.suppress(CorruptObject):
            present = self._manifests.read(name)
            made_from = present.card.quantisation if present is not None else None
            if present is not None and (made_from is None or made_from.original != foreign.original):
                raise _name_taken(name)

    def _publish(self, manifest: Manifest, *, replace: bool, over: Manifest | None = None) -> Manifest:
        """`over`: the model that may be taken the place of, as it was when the work began."""
        with exclude(self.root / "manifests.lock"):
            try:
                present = self._manifests.read(manifest.name)
            except CorruptObject:
                present = None  # the import heals it
            if present is not None and present.digest == manifest.digest and present.encrypted == manifest.encrypted:
                return present
            if over is not None and over.name == manifest.name and present != over:
                raise RevisionConflict(f"model {str(over.name)!r} was changed meanwhile; look again and repeat")
            same = present is not None and present.digest == manifest.digest
            if present is not None and not replace and not (same and (manifest.encrypted or present == over)):
                raise _name_taken(manifest.name)
            self._manifests.write(manifest)
            return manifest

    def _tell_ignored(self, path: Path, chosen: Chosen) -> None:
        from thaloom.kernel.models.import_files import printable

        if chosen.pickles:
            self._emit(
                FilesIgnored(
                    source=printable(str(path)), reason="pickle or code that runs on load", files=chosen.pickles
                )
            )
        if chosen.unknown:
            self._emit(FilesIgnored(source=printable(str(path)), reason="not part of the model", files=chosen.unknown))

    def _not_found(self, name: ModelName) -> ModelNotFound:
        names = [str(known) for known in self._manifests.names()]
        near = difflib.get_close_matches(str(name), names, n=3)
        hint = (
            f"; did you mean {' or '.join(map(repr, near))}?" if near else f" (there are: {', '.join(names) or 'none'})"
        )
        return ModelNotFound(f"no model {str(name)!r} in the store{hint}", near=near)


def _chunks(objects: Objects, tree: Digest) -> list[Digest]:
    """Raises BadObject."""
    return [chunk.digest for chunk in read_tree(objects, tree).chunks]


def _first_half(most_bytes: int, progress: Progress | None) -> Callable[[float], None]:
    """Progress of converting, by its share, in bytes of the first of two equal steps."""

    def tell(share: float) -> None:
        if progress is not None:
            progress(int(share * most_bytes), 2 * most_bytes)

    return tell


def _second_half(progress: Progress | None) -> Progress | None:
    return None if progress is None else lambda done, total: progress(total + done, 2 * total)


@contextlib.contextmanager
def _own_files(root: Path) -> Iterator[None]:
    """Say that it is the store itself that cannot be written, and not the model."""
    try:
        with disk_errors(root):
            yield
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        raise StateUnusable(f"the model store {str(root)!r} cannot be written: {error.strerror}{where}") from error


def _name_taken(name: ModelName) -> NameTaken:
    return NameTaken(f"model {str(name)!r} is there already, with other files", param="name")


def name_from(path: Path) -> ModelName:
    """A folder's or file's own name, made a valid one. Raises BadParameter if nothing of it is left."""
    path = path.absolute()
    from thaloom.kernel.models.foreign import GGUF

    stem = path.name.removesuffix(".safetensors").removesuffix(GGUF).removesuffix(".onnx")
    if stem != path.name and stem == "model":
        stem = path.parent.name
    text = re.sub(r"[^a-z0-9._-]+", "-", stem.lower()).strip(".-_")[:63]
    text = re.sub(r"\.\.+", ".", text)
    try:
        return ModelName(text)
    except BadParameter as error:
        raise BadParameter(f"cannot make a name of {path.name!r}: give one", param="name") from error
