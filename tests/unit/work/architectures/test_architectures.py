"""Families: chosen by what a model asks for, read strictly, refused by the key they cannot serve."""

from __future__ import annotations

from typing import Any

import pytest

from thaloom.base.errors import DriverUnavailable, NotServable
from thaloom.base.plugins import Registry
from thaloom.hal.ops import Linear, PagedAttention, RmsNorm, Rope, RopeScaling
from thaloom.work.runtime.architectures import Architecture, select
from thaloom.work.runtime.architectures.llama import ARCHITECTURE, Llama
from thaloom.work.runtime.architectures.qwen2 import Qwen2
from thaloom.work.runtime.architectures.qwen3 import Qwen3

ALL: list[Architecture] = [Llama(), Qwen2(), Qwen3()]


def config(**changes: Any) -> dict[str, Any]:
    """The least any family reads, as a model's author writes it; a change to None leaves a key out."""
    facts: dict[str, Any] = {
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": 100,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 512,
    } | changes
    return {key: value for key, value in facts.items() if value is not None}


@pytest.fixture
def registry() -> Registry[Architecture]:
    found: Registry[Architecture] = Registry("architecture")
    found.discover()
    return found


class TestSelecting:
    @pytest.mark.parametrize(
        ("asked", "name"),
        [("LlamaForCausalLM", "llama"), ("Qwen2ForCausalLM", "qwen2"), ("Qwen3ForCausalLM", "qwen3")],
    )
    def test_by_name(self, registry: Registry[Architecture], asked: str, name: str) -> None:
        chosen = select(registry, config(architectures=[asked]))
        assert chosen.name == name
        assert asked in chosen.families

    @pytest.mark.parametrize("asked", ["MambaForCausalLM", "LlamaForSequenceClassification"])
    def test_unknown_names_what_there_is(self, registry: Registry[Architecture], asked: str) -> None:
        with pytest.raises(NotServable, match=f"{asked}.*LlamaForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM"):
            select(registry, config(architectures=[asked]))

    @pytest.mark.parametrize("asked", [None, [], "LlamaForCausalLM", [3]])
    def test_nothing_asked_for(self, registry: Registry[Architecture], asked: Any) -> None:
        with pytest.raises(NotServable, match="names no architecture"):
            select(registry, config(architectures=asked))

    def test_no_architectures_at_all(self) -> None:
        with pytest.raises(NotServable, match="none"):
            select(Registry("architecture"), config())

    def test_only_the_chosen_factory_runs(self, registry: Registry[Architecture]) -> None:
        with pytest.raises(DriverUnavailable):
            registry.create("mamba")
        assert ARCHITECTURE.manifest.provides == Llama.families


class TestReading:
    @pytest.mark.parametrize("family", ALL, ids=lambda family: family.name)
    def test_shape(self, family: Architecture) -> None:
        shape = family.read(config())
        assert (shape.vocab_size, shape.context_length, shape.hidden_size, shape.num_layers) == (100, 512, 64, 2)

    @pytest.mark.parametrize("family", ALL, ids=lambda family: family.name)
    @pytest.mark.parametrize(
        "key",
        ["vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
         "max_position_embeddings"],
    )  # fmt: skip
    def test_what_is_missing_is_named(self, family: Architecture, key: str) -> None:
        with pytest.raises(NotServable, match=f"lacks '{key}'") as refusal:
            family.read(config(**{key: None}))
        assert refusal.value.param == key

    @pytest.mark.parametrize("family", ALL, ids=lambda family: family.name)
    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("vocab_size", "100"),
            ("vocab_size", True),
            ("hidden_size", 0),
            ("num_hidden_layers", 2.0),
            ("rms_norm_eps", "small"),
            ("rms_norm_eps", float("nan")),
            ("rms_norm_eps", -1e-6),
            ("tie_word_embeddings", 1),
            ("hidden_act", 3),
            ("hidden_act", "xielu"),
            ("num_key_value_heads", 3),
            ("head_dim", 15),
            ("quantization_config", {"quant_method": "gptq"}),
            ("some_new_trick", 0.5),
            ("num_experts", 8),
            ("partial_rotary_factor", 0.5),
            ("rope_theta", 0),
            ("rope_scaling", "linear"),
            ("rope_parameters", [1]),
            ("logit_scale", 2.0),
        ],
    )
    def test_what_is_wrong_or_unknown_is_named(self, family: Architecture, key: str, value: Any) -> None:
        with pytest.raises(NotServable, match=key) as refusal:
            family.read(config(**{key: value}))
        assert refusal.value.param == key

    @pytest.mark.parametrize("family", ALL, ids=lambda family: family.name)
    def test_what_asks_for_nothing_is_no_reason(self, family: Architecture) -> None:
        idle = {"quantization_config": {}, "num_experts": 0, "use_mrope": False, "_name_or_path": "x/y", "auto_map": {}}
        usual = {"torch_dtype": "bfloat16", "transformers_version": "5.0.0", "use_cache": True, "eos_token_id": [1, 2]}
        family.read(config(**idle, **usual) | {"rope_scaling": None, "sliding_window": None})

    def test_heads_that_do_not_fit_need_a_size(self) -> None:
        with pytest.raises(NotServable, match="num_attention_heads"):
            Llama().read(config(num_attention_heads=5))
        assert Llama().read(config(num_attention_heads=5, head_dim=16)).head_size == 16
        assert Qwen3().read(config(num_attention_heads=5)).head_size == 128

    def test_bias_that_a_family_does_not_have(self) -> None:
        for family, key in ((Qwen2(), "attention_bias"), (Qwen3(), "mlp_bias"), (Qwen2(), "mlp_bias")):
            with pytest.raises(NotServable, match=key):
                family.read(config(**{key: True}))
            family.read(config(**{key: False}))

    def test_llama_has_no_window(self) -> None:
        with pytest.raises(NotServable, match="sliding_window"):
            Llama().read(config(sliding_window=4096))


class TestRope:
    def read(self, **changes: Any) -> tuple[float, RopeScaling]:
        shape = Llama().read(config(**changes))
        return shape.rope_base, shape.rope_scaling

    def test_default(self) -> None:
        assert self.read() == (10_000.0, RopeScaling())
        assert self.read(rope_theta=500000) == (500_000.0, RopeScaling())
        assert self.read(rope_parameters={"rope_type": "default", "rope_theta": 7.0}) == (7.0, RopeScaling())

    def test_old_and_new_form_agree(self) -> None:
        yarn = {"factor": 4.0, "original_max_position_embeddings": 128}
        old = self.read(rope_theta=100.0, rope_scaling={"type": "yarn"} | yarn)
        assert old == self.read(rope_theta=100.0, rope_scaling={"rope_type": "yarn"} | yarn)
        assert old == self.read(rope_parameters={"rope_type": "yarn", "rope_theta": 100.0} | yarn)
        assert old == (100.0, RopeScaling(kind="yarn", factor=4.0, original_context=128))

    def test_original_context_beside_the_table_wins(self) -> None:
        _, scaling = self.read(
            original_max_position_embeddings=64,
            rope_scaling={"type": "yarn", "factor": 2.0, "original_max_position_embeddings": 128},
        )
        assert scaling.original_context == 64

    def test_original_context_defaults_to_the_whole(self) -> None:
        _, scaling = self.read(rope_scaling={"type": "yarn", "factor": 2.0})
        assert scaling.original_context == 512

    def test_yarn_without_a_factor_takes_the_ratio(self) -> None:
        _, scaling = self.read(
            rope_parameters={"rope_type": "yarn", "factor": None, "original_max_position_embeddings": 128}
        )
        assert scaling.factor == 4.0

    def test_mscale_gives_the_attention_factor(self) -> None:
        yarn = {"type": "yarn", "factor": 4.0, "mscale": 1.0, "mscale_all_dim": 1.0}
        assert self.read(rope_scaling=yarn)[1].attention_factor == 1.0
        assert self.read(rope_scaling=yarn | {"attention_factor": 0.5})[1].attention_factor == 0.5
        assert self.read(rope_scaling=yarn | {"mscale": 0})[1].attention_factor is None
        assert self.read(rope_scaling=yarn | {"factor": 0.5})[1].attention_factor == 1.0

    @pytest.mark.parametrize(
        ("table", "key"),
        [
            ({"type": "dynamic", "factor": 2.0}, "rope_type"),
            ({"rope_type": "longrope", "factor": 2.0, "short_factor": [1.0]}, "rope_type"),
            ({"type": "linear"}, "factor"),
            ({"type": "linear", "factor": -1.0}, "factor"),
            ({"type": "linear", "factor": 2.0, "beta_fast": 32}, "beta_fast"),
            ({"type": "llama3", "factor": 8.0, "low_freq_factor": 1.0}, "high_freq_factor"),
            ({"type": "yarn", "factor": 2.0, "truncate": False}, "truncate"),
            ({"type": "yarn", "factor": 2.0, "partial_rotary_factor": 0.5}, "partial_rotary_factor"),
            ({"type": "default", "mrope_section": [1, 2]}, "mrope_section"),
        ],
    )
    def test_what_we_do_not_have_is_named(self, table: dict[str, Any], key: str) -> None:
        with pytest.raises(NotServable) as refusal:
            self.read(rope_scaling=table)
        assert refusal.value.param == f"rope_scaling.{key}"


class TestWindows:
    def windows(self, **changes: Any) -> tuple[int, ...]:
        return Qwen2().read(config(num_hidden_layers=3, **changes)).windows

    def test_none_unless_used(self) -> None:
        assert self.windows() == (0, 0, 0)
        assert self.windows(sliding_window=8, max_window_layers=0) == (0, 0, 0)

    def test_from_a_layer_on(self) -> None:
        assert self.windows(use_sliding_window=True, sliding_window=8, max_window_layers=1) == (0, 8, 8)
        assert self.windows(use_sliding_window=True, sliding_window=8) == (0, 0, 0)

    def test_by_kind_of_layer(self) -> None:
        kinds = ["sliding_attention", "full_attention", "sliding_attention"]
        assert self.windows(use_sliding_window=True, sliding_window=8, layer_types=kinds) == (8, 0, 8)
        assert self.windows(layer_types=["full_attention"] * 3) == (0, 0, 0)

    @pytest.mark.parametrize(
        "kinds",
        [["full_attention"] * 2, "full_attention", ["linear_attention"] * 3, ["sliding_attention"] * 3],
        ids=str,
    )
    def test_kinds_that_cannot_be_are_refused(self, kinds: Any) -> None:
        with pytest.raises(NotServable, match="layer_types"):
            self.windows(layer_types=kinds)


class TestBuilding:
    def test_llama_is_plain(self) -> None:
        program = Llama().build(config(num_key_value_heads=2))
        names = set(program.weights)
        assert {"model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"} <= names
        assert program.weights["model.layers.1.self_attn.k_proj.weight"] == (32, 64)  # type: ignore[index]
        assert program.weights["model.layers.1.mlp.down_proj.weight"] == (64, 96)  # type: ignore[index]
        assert not any(name.endswith(".bias") for name in names)
        assert len(program.kv) == 2

    def test_tied_head_is_the_embedding(self) -> None:
        program = Llama().build(config(tie_word_embeddings=True))
        assert "lm_head.weight" not in program.weights
        assert program.instructions[-1].weight == "model.embed_tokens.weight"  # type: ignore[attr-defined]

    @pytest.mark.parametrize(
        ("family", "changes", "biased"),
        [
            (Llama(), {"attention_bias": True}, "q_proj k_proj v_proj o_proj"),
            (Llama(), {"mlp_bias": True}, "gate_proj up_proj down_proj"),
            (Qwen2(), {}, "q_proj k_proj v_proj"),
            (Qwen3(), {}, ""),
            (Qwen3(), {"attention_bias": True}, "q_proj k_proj v_proj o_proj"),
        ],
    )
    def test_biases(self, family: Architecture, changes: dict[str, Any], biased: str) -> None:
        program = family.build(config(num_hidden_layers=1, **changes))
        found = [step.bias.split(".")[-2] for step in program.instructions if isinstance(step, Linear) and step.bias]
        assert found == biased.split()

    def test_qwen3_normalises_queries_and_keys_by_head(self) -> None:
        program = Qwen3().build(config(num_hidden_layers=1, head_dim=16))
        grouped = [step.weight for step in program.instructions if isinstance(step, RmsNorm) and step.group == 16]
        assert grouped == [f"model.layers.0.self_attn.{name}_norm.weight" for name in "qk"]

    def test_windows_reach_their_layers(self) -> None:
        changes = {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}
        program = Qwen3().build(config(**changes))
        assert [step.window for step in program.instructions if isinstance(step, PagedAttention)] == [0, 8]

    def test_scaling_reaches_queries_and_keys_of_every_layer(self) -> None:
        program = Llama().build(config(rope_scaling={"type": "linear", "factor": 3.0}))
        ropes = [step for step in program.instructions if isinstance(step, Rope)]
        assert len(ropes) == 4
        assert {(step.scaling.kind, step.scaling.factor) for step in ropes} == {("linear", 3.0)}

    def test_same_config_same_program(self) -> None:
        assert Qwen2().build(config()).digest() == Qwen2().build(config()).digest()
        assert Qwen2().build(config()).digest() != Llama().build(config()).digest()
