"""What peers print is read right, what is not there is said so, and their models hold what ours do."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from benchmarks import random_models
from benchmarks.engine import accuracy, environments
from benchmarks.engine.cells import WEIGHT_CLASSES, decode, prefill
from benchmarks.engine.engines import Unavailable
from benchmarks.engine.models import f32_from_bits, read_safetensors, w8a8_model
from benchmarks.engine.peers.llama_cpp import BatchedBench, LlamaCpp, read_rate
from benchmarks.engine.probe import Peaks, Probe
from benchmarks.engine.roofline import Roofline, program_of


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_models.make(random_models.SHAPES["toy"], tmp_path_factory.mktemp("models") / "toy")


PRINTED = """\
llama_batched_bench: n_kv_max = 2560

{"n_kv_max": 2560, "pp": 128, "tg": 32, "pl": 16, "n_kv": 2560, "t_pp": 0.5, "t_tg": 4.0, "speed_tg": 1.0}
llama_perf_context_print: nonsense
"""


def test_the_batched_benchmark_is_read_by_its_times() -> None:
    assert read_rate(PRINTED, decode(16)) == 16 * 32 / 4.0
    one = PRINTED.replace('"pl": 16', '"pl": 1').replace('"pp": 128', '"pp": 512')
    assert read_rate(one, prefill(512)) == 512 / 0.5


def test_the_forks_table_is_read_like_the_lines() -> None:
    table = """
|    PP |     TG |    B |   N_KV |   T_PP s | S_PP t/s |   T_TG s | S_TG t/s |      T s |    S t/s |
|-------|--------|------|--------|----------|----------|----------|----------|----------|----------|
|   128 |     32 |   16 |   2560 |    0.500 |   256.00 |    4.000 |   128.00 |    4.500 |   142.22 |
"""
    assert read_rate(table, decode(16)) == 16 * 32 / 4.0
    with pytest.raises(Unavailable, match="no result"):
        read_rate(table, decode(1))


def test_a_benchmark_that_skipped_the_cell_is_not_a_result() -> None:
    with pytest.raises(Unavailable, match="no result"):
        read_rate(PRINTED, decode(32))


def test_the_batched_benchmark_is_told_threads_and_room_for_every_sequence() -> None:
    engine = LlamaCpp(project="llama.cpp", quantisation="Q8_0", num_threads=2)
    command = BatchedBench(engine=engine, program=Path("b"), weights=Path("w")).command(decode(16))
    text = " ".join(str(word) for word in command)
    assert "-t 2 -tb 2 -npp 128 -ntg 64 -npl 16" in text
    assert int(command[command.index("-c") + 1]) >= 16 * (128 + 32)


def test_a_project_in_no_registry_is_left_out_visibly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("IK_LLAMA_CPP_SOURCE", raising=False)
    with pytest.raises(Unavailable, match="IK_LLAMA_CPP_SOURCE"):
        LlamaCpp(project="ik_llama.cpp", quantisation="Q8_0", num_threads=2).source()


def test_what_was_made_is_made_again_only_for_something_else(tmp_path: Path) -> None:
    assert not environments.is_made(tmp_path, {"packages": ["a"]})
    environments.stamp(tmp_path, {"packages": ["a"]})
    assert environments.is_made(tmp_path, {"packages": ["a"]})
    assert not environments.is_made(tmp_path, {"packages": ["a", "b"]})


def test_a_command_that_fails_names_its_log(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "install.log"
    with pytest.raises(Unavailable, match="no such package"):
        environments.run(["sh", "-c", "echo no such package; exit 1"], log)
    with pytest.raises(Unavailable, match="No such file"):
        environments.run(["/nonexistent/cmake"], log)


def test_the_w8a8_checkpoint_is_the_same_model_in_whole_numbers(toy: Path) -> None:
    folder = w8a8_model(toy)
    settings = json.loads((folder / "config.json").read_text())
    assert settings["quantization_config"]["ignore"] == ["lm_head"]
    stored = dict(read_safetensors(toy / "model.safetensors"))
    name = "model.layers.0.self_attn.q_proj.weight"
    made = dict(read_safetensors(folder / "model.safetensors"))
    assert (made[name].dtype, made[name + "_scale"].shape) == (np.int8, (stored[name].shape[0], 1))
    values = f32_from_bits(stored[name])
    again = made[name].astype(np.float32) * f32_from_bits(made[name + "_scale"])
    assert np.abs(again - values).max() < np.abs(values).max() / 127
    assert (made["model.embed_tokens.weight"] == stored["model.embed_tokens.weight"]).all()


def test_bits_of_bf16_become_the_numbers_they_mean() -> None:
    assert f32_from_bits(np.array([0x3F80, 0xC000], np.uint16)).tolist() == [1.0, -2.0]


def test_rooflines_fall_with_the_weights_width_until_arithmetic_limits(toy: Path) -> None:
    program = program_of(toy)
    peaks = Peaks(i8=1e12, bf16=5e11, f32=1e11)
    rates = [
        Roofline(program=program, weight_class=name, peaks=peaks).rate(decode(1), bytes_per_s=4e10)
        for name in ("16 bit", "8 bit", "4 bit")
    ]
    assert rates == sorted(rates)
    slow = Roofline(program=program, weight_class="8 bit", peaks=Peaks(i8=1e9, bf16=None, f32=None))
    assert slow.rate(prefill(512), bytes_per_s=1e15) == pytest.approx(
        512 * 1e9 / slow.cost(prefill(512)).num_operations
    )


def test_peaks_fall_back_to_what_there_is() -> None:
    assert Peaks(i8=3.0, bf16=2.0, f32=1.0).best(weight_bits=4) == 3.0
    assert Peaks(i8=3.0, bf16=None, f32=1.0).best(weight_bits=16) == 1.0
    assert Peaks(i8=None, bf16=None, f32=None).best(weight_bits=8) is None
    assert len(WEIGHT_CLASSES) == 3


def test_the_probe_reads_memory_with_and_without_a_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.engine.probe.PROBE_BYTES", 8 << 20)
    monkeypatch.setattr("benchmarks.engine.probe.PROBE_S", 0.01)
    assert Probe(2, tmp_path).read() > 1e6
    monkeypatch.setattr("shutil.which", lambda name: None)
    bare = Probe(2, tmp_path)
    assert (bare.how, bare.peaks()) == ("numpy", Peaks(i8=None, bf16=None, f32=None))
    assert bare.read() > 1e6


def test_distances_are_made_of_the_rows_that_everybody_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accuracy, "WINDOW", 3)
    windows = np.array([[1, 2, 0], [0, 1, 2]], np.int32)
    subject = accuracy.Subject("s", Path("s"), windows)
    original = np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32)
    same = accuracy.compare(subject, original, original + 5)  # a constant changes no distribution
    assert same["mean_kl"] == pytest.approx(0, abs=1e-6)
    short = original.reshape(2, 3, 4)[:, :2].reshape(4, 4)  # vLLM says nothing of what comes after the last token
    assert accuracy.compare(subject, original, short)["mean_kl"] == pytest.approx(0, abs=1e-6)
    other = accuracy.compare(subject, original, original[::-1])
    assert other["mean_kl"] > 0.1
    assert "not measured" in accuracy.table({"when": "2026-01-01", "models": {"s": {"a": {"left_out": "why"}}}})
