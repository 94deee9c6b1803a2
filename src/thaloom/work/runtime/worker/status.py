"""A worker's account of itself, while it loads and while it serves."""

from __future__ import annotations

import os

from thaloom.hal.ops import BLOCK_TOKENS
from thaloom.work.runtime.core.engine import Engine
from thaloom.work.runtime.messages import WorkerStats
from thaloom.work.runtime.spec import WorkerSpec
from thaloom.work.runtime.worker.loading import LoadedModel, shared_weight_bytes


def loading_stats(spec: WorkerSpec, phase: str) -> WorkerStats:
    """What is known before the model is there: who it is and what it was asked for. The rest is 0 or empty."""
    return WorkerStats(
        worker=spec.worker,
        service=spec.service,
        model=spec.model,
        model_digest="",
        pid=os.getpid(),
        ready=False,
        device=spec.device or "",
        driver=spec.driver,
        num_threads=spec.num_threads or 0,
        context_length=spec.context_length or 0,
        vocab_size=0,
        exact=False,
        operator_levels={},
        degraded=None,
        weight_bytes=0,
        kv_bytes=0,
        scratch_bytes=0,
        num_blocks=0,
        free_blocks=0,
        cached_blocks=0,
        running=0,
        waiting=0,
        requests_total=0,
        cancelled_total=0,
        prompt_tokens_total=0,
        cached_tokens_total=0,
        completion_tokens_total=0,
        steps_total=0,
        step_seconds_total=0.0,
        preemptions_total=0,
        engine=spec.engine,
        phase=phase,
    )


def serving_stats(spec: WorkerSpec, phase: str, model: LoadedModel, engine: Engine) -> WorkerStats:
    load, counters, tiers = engine.load(), engine.counters, engine.tiers
    held = None if model.store is None else model.store.held()
    return WorkerStats(
        worker=spec.worker,
        service=spec.service,
        model=str(model.manifest.name),
        model_digest=model.manifest.digest,
        pid=os.getpid(),
        ready=phase == "ready",
        device=model.backend.device.id,
        driver=model.driver,
        num_threads=model.num_threads,
        context_length=model.config.context_length,
        vocab_size=model.config.vocab_size,
        exact=model.backend.support.exact,
        operator_levels=model.operator_levels,
        degraded=degraded(model),
        weight_bytes=model.executable.weight_bytes,
        shared_weight_bytes=shared_weight_bytes(model.executable),
        kv_bytes=model.pool.promised_bytes,
        scratch_bytes=model.executable.scratch_bytes,
        kv_committed_bytes=model.pool.buffer.num_bytes,
        num_blocks=load.num_blocks,
        free_blocks=load.free_blocks,
        cached_blocks=load.cached_blocks,
        running=load.running,
        waiting=load.waiting,
        requests_total=counters.requests,
        cancelled_total=counters.cancelled,
        prompt_tokens_total=counters.prompt_tokens,
        cached_tokens_total=counters.cached_tokens,
        completion_tokens_total=counters.completion_tokens,
        steps_total=counters.steps,
        step_seconds_total=counters.step_seconds,
        preemptions_total=counters.preemptions,
        failed_total=counters.failed,
        failed_steps_total=counters.failed_steps,
        drafted_tokens_total=counters.drafted_tokens,
        accepted_tokens_total=counters.accepted_tokens,
        kv_host_bytes=spec.kv_host_bytes,
        kv_host_held_bytes=0 if held is None else held.host_bytes,
        kv_disk_bytes=spec.kv_disk_bytes,
        kv_disk_held_bytes=0 if held is None else held.disk_bytes,
        saved_tokens_total=0 if tiers is None else tiers.saved_blocks * BLOCK_TOKENS,
        restored_tokens_total=0 if tiers is None else tiers.restored_blocks * BLOCK_TOKENS,
        turn_wait_seconds_total=counters.turn_wait_seconds,
        missed_turns_total=counters.missed_turns,
        pinned_blocks=load.pinned_blocks,
        refused_pin_tokens_total=counters.refused_pin_tokens,
        broken_pin_tokens_total=load.num_broken_pins * BLOCK_TOKENS,
        phase=phase,
    )


def degraded(model: LoadedModel) -> str | None:
    """Whatever is worse than wished."""
    short = None if model.store is None else model.store.short
    told = [model.backend.degraded, short and f"the disk takes no more keys and values: {short}"]
    return "; ".join(filter(None, told)) or None
