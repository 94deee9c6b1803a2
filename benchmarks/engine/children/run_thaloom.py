"""Our own engine in-process: its scheduler and its sampler, no door and no HTTP. Prefix reuse and speculation off."""

import threading
import time
from pathlib import Path

import child

from thaloom import __version__
from thaloom.base.clock import SystemClock
from thaloom.base.events import ignore
from thaloom.base.ids import ServiceName, WorkerId
from thaloom.base.plugins import Registry
from thaloom.kernel.models.store import ModelStore
from thaloom.work.runtime.core.engine import Engine
from thaloom.work.runtime.messages import Failed, Finished, Generate
from thaloom.work.runtime.spec import WorkerSpec
from thaloom.work.runtime.worker.loading import load


def main():
    settings = child.settings()
    store = ModelStore(Path(settings["store"]), SystemClock())
    drivers, architectures = Registry("driver"), Registry("architecture")
    drivers.discover()
    architectures.discover()
    spec = WorkerSpec(
        worker=WorkerId("bench"),
        service=ServiceName("bench"),
        model=settings["model"],
        store=settings["store"],
        socket=settings["store"] + "/bench.sock",
        num_threads=settings["threads"],
        context_length=settings["context"],
        kv_bytes=settings["kv_bytes"],
        max_sequences=settings["batch"],
        chunk_tokens=settings["step_tokens"],
        stretch=1e9,  # prompts first, whoever waits: what is measured are prompts alone, then decoding alone
        prefix_reuse=False,
        speculation="off",
        **settings["spec"],
    )
    loaded = load(spec, store, drivers, architectures, threading.Event())
    engine = Engine(loaded.executable, loaded.config, monotonic=time.monotonic, emit=ignore, memory=loaded.pool.memory)

    def generate(prompts, new_tokens):
        for index, ids in enumerate(prompts):
            engine.submit(
                Generate(
                    id=str(index),
                    prompt=ids,
                    max_tokens=new_tokens,
                    temperature=0.0,
                    top_k=0,
                    top_p=1.0,
                    min_p=0.0,
                    seed=0,
                    stop_tokens=[],
                    logprobs=None,
                )
            )
        finished = decoded = 0
        begun, all_begun = set(), None
        while engine.busy:
            emitted = engine.step()
            for ticket, news in emitted:
                assert not isinstance(news, Failed), news
                if isinstance(news, Finished):
                    assert news.completion_tokens == new_tokens
                    finished += 1
                else:
                    begun.add(ticket)
                    decoded += 0 if all_begun is None else len(news.tokens)
            if all_begun is None and len(begun) == len(prompts):
                all_begun = time.perf_counter()
        assert finished == len(prompts)
        return decoded, time.perf_counter() - all_begun

    child.serve(__version__, settings["vocabulary"], generate)


if __name__ == "__main__":
    main()
