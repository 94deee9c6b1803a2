"""Llama 1 to 3.x, and the many models trained in its shape (SmolLM, TinyLlama, Yi, DeepSeek LLM ...).

`attention_bias` puts a bias on all four attention projections, `mlp_bias` on all three of the MLP.
Source: transformers 5, models/llama/modeling_llama.py.
"""

from __future__ import annotations

from thaloom.base.plugins import Manifest, Plugin
from thaloom.hal.ops import Program
from thaloom.work.runtime.architectures import Architecture, Config
from thaloom.work.runtime.architectures.dense import DenseShape, read_dense, record_dense
from thaloom.work.runtime.architectures.keys import Keys

FAMILIES = ("LlamaForCausalLM",)


class Llama:
    name = "llama"
    families = FAMILIES

    def read(self, config: Config) -> DenseShape:
        keys = Keys(config)
        attention_bias = keys.flag("attention_bias", False)
        return read_dense(keys, qkv_bias=attention_bias, out_bias=attention_bias, mlp_bias=keys.flag("mlp_bias", False))

    def build(self, config: Config) -> Program:
        return record_dense(self.read(config))


ARCHITECTURE: Plugin[Architecture] = Plugin(
    manifest=Manifest(
        kind="architecture", name=Llama.name, version="1", summary="Llama and models of its shape", provides=FAMILIES
    ),
    factory=Llama,
)
