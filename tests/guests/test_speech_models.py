"""Speech models of Hugging Face's kinds, tiny and random, exported to ONNX and kept as their makers keep them: what our
routes give is what the library itself gives. Needs torch (make test-guests)."""

from __future__ import annotations

import asyncio
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.contract.onnx.test_onnx_audio import client, wav
from tests.contract.onnx.test_onnx_served import site

torch = pytest.importorskip("torch", reason="the extra is not installed: make test-guests")
transformers = pytest.importorskip("transformers", reason="the extra is not installed: make test-guests")

LETTERS = {letter: number for number, letter in enumerate(["<pad>", "<s>", "</s>", "<unk>", "|", *"ETAONIHS"])}
RATE = 16_000


def export(model: Any, inputs: tuple[Any, ...], path: Path, names: list[str], output: str) -> None:
    axes = {name: {0: "batch", 1: "length"} for name in [*names, output]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model, inputs, str(path), input_names=names, output_names=[output], dynamic_axes=axes, dynamo=False,
            opset_version=17,
        )  # fmt: skip


@pytest.mark.timeout(300)
@pytest.mark.parametrize("normalize", [True, False])
def test_a_wav2vec2_writes_what_the_library_writes(normalize: bool, tmp_path: Path) -> None:
    folder = tmp_path / "ear"
    folder.mkdir()
    torch.manual_seed(2)
    config = transformers.Wav2Vec2Config(
        vocab_size=len(LETTERS), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        conv_dim=(16, 16, 16, 16, 16, 16, 16), num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4,
        pad_token_id=0,
    )  # fmt: skip
    model = transformers.Wav2Vec2ForCTC(config).eval()
    with torch.no_grad():
        model.lm_head.weight *= 40  # else one letter wins every frame
    (folder / "vocab.json").write_text(json.dumps(LETTERS))
    tokenizer = transformers.Wav2Vec2CTCTokenizer(str(folder / "vocab.json"))
    extractor = transformers.Wav2Vec2FeatureExtractor(sampling_rate=RATE, do_normalize=normalize)
    config.architectures = ["Wav2Vec2ForCTC"]
    config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    extractor.save_pretrained(folder)

    class Logits(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.model = model.requires_grad_(False)

        def forward(self, input_values: Any) -> Any:
            return self.model(input_values).logits

    export(Logits().eval(), (torch.randn(1, RATE),), folder / "model.onnx", ["input_values"], "logits")
    draw = np.random.default_rng(1)
    tones = [np.sin(np.arange(RATE // 4) * pitch) * loud for pitch, loud in draw.uniform(0.02, 0.9, (12, 2))]
    samples = np.concatenate(tones)
    heard = np.round(samples * 32767) / 32768
    inputs = extractor(heard.astype(np.float32), sampling_rate=RATE, return_tensors="pt")
    with torch.inference_mode():
        best = model(inputs["input_values"]).logits.argmax(-1)[0]
    wanted = tokenizer.decode(best)
    for word in ("<s>", "</s>", "<unk>"):
        wanted = wanted.replace(word, "")
    wanted = " ".join(wanted.split())
    assert len(set(wanted)) > 3

    async def run() -> None:
        async with site(tmp_path, folder) as door, client(door) as asking:
            told = await asking.audio.transcriptions.create(model="net", file=("s.wav", wav(samples)))
            assert told.text == wanted

    asyncio.run(run())


@pytest.mark.timeout(300)
def test_a_vits_speaks_what_the_library_speaks(tmp_path: Path) -> None:
    folder = tmp_path / "voice"
    folder.mkdir()
    torch.manual_seed(2)
    letters = {letter: number for number, letter in enumerate([*"_abcdefghij ", "<unk>"])}
    config = transformers.VitsConfig(
        vocab_size=len(letters), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, ffn_dim=64,
        flow_size=32, spectrogram_bins=9, prior_encoder_num_flows=2, prior_encoder_num_wavenet_layers=2,
        posterior_encoder_num_wavenet_layers=2, duration_predictor_num_flows=2, upsample_initial_channel=32,
        upsample_rates=(4, 4), upsample_kernel_sizes=(8, 8), resblock_kernel_sizes=(3,),
        resblock_dilation_sizes=((1, 3),), depth_separable_num_layers=2, wavenet_dilation_rate=1,
        use_stochastic_duration_prediction=False, noise_scale=0.0, sampling_rate=RATE,
    )  # fmt: skip
    model = transformers.VitsModel(config).eval()
    (folder / "vocab.json").write_text(json.dumps(letters))
    tokenizer = transformers.VitsTokenizer(
        str(folder / "vocab.json"), language="eng", phonemize=False, is_uroman=False, normalize=True, add_blank=True,
        pad_token="_", unk_token="<unk>",
    )  # fmt: skip
    config.architectures = ["VitsModel"]
    config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    inputs = tokenizer("Abba, hide a jig", return_tensors="pt")
    with torch.inference_mode():
        wanted = model(**inputs).waveform[0].numpy()

    class Waveform(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.model = model.requires_grad_(False)

        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            return self.model(input_ids=input_ids, attention_mask=attention_mask).waveform

    export(
        Waveform().eval(), (inputs["input_ids"], inputs["attention_mask"]), folder / "model.onnx",
        ["input_ids", "attention_mask"], "waveform",
    )  # fmt: skip

    async def run() -> None:
        async with site(tmp_path, folder) as door, client(door) as asking:
            assert door.ended is None, door.ended
            spoken = await asking.audio.speech.create(
                model="net", voice="any", input="Abba, hide a jig", response_format="pcm"
            )
            got = np.frombuffer(spoken.content, "<i2") / 32767
            assert got.shape == wanted.shape
            np.testing.assert_allclose(got, np.clip(wanted, -1, 1), atol=2e-3)

    asyncio.run(run())
