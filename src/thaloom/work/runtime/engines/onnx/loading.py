"""From a worker's spec to an ONNX model ready to run."""

from __future__ import annotations

import os

from thaloom.base.errors import CorruptObject, NotServable
from thaloom.kernel.models.onnx import FAMILY, ONNX
from thaloom.kernel.models.store import ModelStore
from thaloom.kernel.models.types import ModelName
from thaloom.work.runtime.engines.onnx.hearing import Ear
from thaloom.work.runtime.engines.onnx.picture import TOKENIZER, Brush
from thaloom.work.runtime.engines.onnx.served import OnnxModel
from thaloom.work.runtime.engines.onnx.session import Session
from thaloom.work.runtime.engines.onnx.tasks import Hearing, Job, ReadFile, Speaking, job_of
from thaloom.work.runtime.engines.onnx.voice import Voice
from thaloom.work.runtime.spec import WorkerSpec


def load_onnx(spec: WorkerSpec, store: ModelStore) -> OnnxModel:
    """Blocks. Raises ModelNotFound, CorruptObject, NotServable."""
    manifest = store.get(ModelName.parse(spec.model))
    file = next((entry.path for entry in manifest.files if entry.path.lower().endswith(ONNX)), None)
    if manifest.card.family != FAMILY or file is None:
        raise NotServable(f"model {spec.model!r} is no ONNX model", param="engine")
    stored = store.open(manifest)
    data = stored.read_file(file)
    if not data:
        raise CorruptObject(f"{file!r} of model {spec.model!r} is empty", file=file)
    threads = spec.num_threads or len(os.sched_getaffinity(0))
    session = Session(data, manifest.card.inputs, manifest.card.outputs, threads)
    names = {entry.path for entry in manifest.files}

    def read(name: str) -> bytes | None:
        return stored.read_file(name) if name in names else None

    job = job_of(session.metadata, read)
    return OnnxModel(manifest=manifest, session=session, talent=None if job is None else talent_for(job, session, read))


def talent_for(job: Job, session: Session, read: ReadFile) -> Ear | Voice | Brush:
    """Raises NotServable."""
    if isinstance(job, Hearing):
        return Ear(session, job)
    return Voice(session, job) if isinstance(job, Speaking) else Brush(session, job, read(TOKENIZER))
