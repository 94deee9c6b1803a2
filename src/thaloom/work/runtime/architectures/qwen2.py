"""Qwen2 and Qwen2.5, dense: Llama with a bias on queries, keys and values, always, and none elsewhere.

Source: transformers 5, models/qwen2/modeling_qwen2.py.
"""

from __future__ import annotations

from thaloom.base.plugins import Manifest, Plugin
from thaloom.hal.ops import Program
from thaloom.work.runtime.architectures import Architecture, Config
from thaloom.work.runtime.architectures.dense import DenseShape, read_dense, record_dense
from thaloom.work.runtime.architectures.keys import Keys
from thaloom.work.runtime.architectures.windows import read_windows

FAMILIES = ("Qwen2ForCausalLM",)


class Qwen2:
    name = "qwen2"
    families = FAMILIES

    def read(self, config: Config) -> DenseShape:
        keys = Keys(config)
        return read_dense(keys, qkv_bias=True, windows=read_windows(keys))

    def build(self, config: Config) -> Program:
        return record_dense(self.read(config))


ARCHITECTURE: Plugin[Architecture] = Plugin(
    manifest=Manifest(
        kind="architecture", name=Qwen2.name, version="1", summary="Qwen2 and Qwen2.5, dense", provides=FAMILIES
    ),
    factory=Qwen2,
)
