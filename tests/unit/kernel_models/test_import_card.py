"""A card says what the files say, and nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.models import encode_safetensors, make_model, weight_shapes
from thaloom.base.clock import ManualClock
from thaloom.base.events import Degraded, Recorder
from thaloom.hal.tensors import Tensor
from thaloom.kernel.models.store import ModelStore
from thaloom.kernel.models.types import ModelCard, ModelName


def card_of(folder: Path, tmp_path: Path) -> ModelCard:
    return ModelStore(tmp_path / "store", ManualClock()).import_path(folder, ModelName("m"), replace=True).card


@pytest.mark.parametrize(("family", "architecture"), [("llama", "LlamaForCausalLM"), ("qwen3", "Qwen3ForCausalLM")])
def test_a_card_is_filled_from_config_and_headers(family: str, architecture: str, tmp_path: Path) -> None:
    folder = make_model(tmp_path / "m", family, dtype="f16")  # type: ignore[arg-type]  # parametrized
    store = ModelStore(tmp_path / "store", ManualClock())
    manifest = store.import_path(folder, ModelName("m"))
    shapes = weight_shapes(store.open(manifest).config())
    num_parameters = sum(int(np.prod(shape)) for shape in shapes.values())
    assert manifest.card == ModelCard(
        architecture=architecture,
        family=family,
        num_parameters=num_parameters,
        dtypes=("f16",),
        weight_bytes=2 * num_parameters,
        context_length=256,
        vocab_size=267,
        has_tokenizer=True,
        has_chat_template=True,
    )


def test_what_is_not_said_is_none(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "m", with_tokenizer=False)
    (folder / "config.json").write_text(
        '{"architectures": ["\\u001b"], "model_type": 3, "max_position_embeddings": -1}'
    )
    card = card_of(folder, tmp_path)
    assert (card.architecture, card.family, card.context_length, card.vocab_size) == ("", "", None, None)
    assert (card.has_tokenizer, card.has_chat_template, card.license, card.summary) == (False, False, None, None)


def test_settings_of_the_text_part_are_found(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "m")
    (folder / "config.json").write_text('{"model_type": "x", "text_config": {"n_ctx": 77, "vocab_size": 300}}')
    card = card_of(folder, tmp_path)
    assert (card.context_length, card.vocab_size) == (77, 300)


def test_a_template_in_its_own_file_counts(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "m")
    (folder / "tokenizer_config.json").write_text("{}")
    assert not card_of(folder, tmp_path).has_chat_template
    (folder / "chat_template.jinja").write_text("{% for message in messages %}{{ message.content }}{% endfor %}")
    assert not card_of(folder, tmp_path).has_chat_template, "it joins texts and tells nobody apart"
    (folder / "chat_template.jinja").write_text("{{ messages[0].role }}: {{ messages[0].content }}")
    assert card_of(folder, tmp_path).has_chat_template


@pytest.mark.parametrize(
    ("readme", "license_name", "summary"),
    [
        ("---\nlicense: apache-2.0\nlanguage: en\n---\n# Title\n\nA small model.\n", "apache-2.0", "A small model."),
        ("---\nlicense: 'mit'\n---\n", "mit", None),
        ("# Title\n\n| a | b |\n\n![x](y)\n\nText over\ntwo lines.", None, "Text over two lines."),
        ("license: not-in-front-matter", None, "license: not-in-front-matter"),
        ("---\nlicense:\n  - mit\n---\n", None, None),
        ("---\nunfinished: yes\n", None, None),
        ("Red \x1b[31mtext\a.", None, "Red [31mtext."),
        ("x" * 500, None, "x" * 199 + "…"),
        ("", None, None),
    ],
)
def test_license_and_summary_come_from_the_readme(
    readme: str, license_name: str | None, summary: str | None, tmp_path: Path
) -> None:
    folder = make_model(tmp_path / "m")
    (folder / "README.md").write_text(readme)
    card = card_of(folder, tmp_path)
    assert (card.license, card.summary) == (license_name, summary)


def test_a_readme_that_is_no_text_does_no_harm(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "m")
    (folder / "MODEL_CARD.md").write_bytes(b"---\nlicense: mit\n---\n\xff\xfe broken")
    assert card_of(folder, tmp_path).license == "mit"


def test_a_dtype_nothing_can_run_is_kept_and_told(tmp_path: Path) -> None:
    data = encode_safetensors({"a": Tensor("i32", np.zeros(4, np.int32))}).replace(b'"I32"', b'"U32"')
    (tmp_path / "w.safetensors").write_bytes(data)
    events = Recorder()
    manifest = ModelStore(tmp_path / "store", ManualClock(), events).import_path(tmp_path / "w.safetensors")
    assert manifest.card.dtypes == ()
    [event] = events.of(Degraded)
    assert isinstance(event, Degraded)
    assert "U32" in event.message


def test_a_readme_of_empty_lines_costs_no_more_than_any_other(tmp_path: Path) -> None:
    """Looking for the end of its YAML block was quadratic, with the interpreter's lock held: minutes for 200 kB."""
    folder = make_model(tmp_path / "m")
    (folder / "README.md").write_text("---\n" + "\n" * 200_000 + "A model.\n")
    assert card_of(folder, tmp_path).summary == "A model."
