"""Qwen3, dense: Llama with queries and keys normalised head by head, and heads of 128 unless the config says else.

Source: transformers 5, models/qwen3/modeling_qwen3.py.
"""

from __future__ import annotations

from thaloom.base.plugins import Manifest, Plugin
from thaloom.hal.ops import Program
from thaloom.work.runtime.architectures import Architecture, Config
from thaloom.work.runtime.architectures.dense import DenseShape, read_dense, record_dense
from thaloom.work.runtime.architectures.keys import Keys
from thaloom.work.runtime.architectures.windows import read_windows

FAMILIES = ("Qwen3ForCausalLM",)
HEAD_SIZE = 128


class Qwen3:
    name = "qwen3"
    families = FAMILIES

    def read(self, config: Config) -> DenseShape:
        keys = Keys(config)
        bias = keys.flag("attention_bias", False)
        return read_dense(
            keys, head_size=HEAD_SIZE, qkv_bias=bias, out_bias=bias, qk_norm=True, windows=read_windows(keys)
        )

    def build(self, config: Config) -> Program:
        return record_dense(self.read(config))


ARCHITECTURE: Plugin[Architecture] = Plugin(
    manifest=Manifest(kind="architecture", name=Qwen3.name, version="1", summary="Qwen3, dense", provides=FAMILIES),
    factory=Qwen3,
)
