"""The tokenizer as a model's files describe it: first tokens, last tokens, bytes, and files that are no use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer as FastTokenizer
from tokenizers import decoders, models, processors

from tests.unit.runtime_text.tokenizers_of_the_field import byte_fallback, byte_level, metaspace, save
from thaloom.base.errors import BadParameter, MalformedFile, NotServable
from thaloom.work.runtime.text.tokenizer import Tokenizer, read_text_files

BOS = 1


def load(folder: Path, tokenizer: Any, **files: Any) -> Tokenizer:
    return Tokenizer(read_text_files(save(folder, tokenizer, **files)))


def with_template() -> Any:
    tokenizer = byte_fallback()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", BOS)])
    return tokenizer


def test_add_bos_token_puts_one_first_token_before_a_prompt(tmp_path: Path) -> None:
    tokenizer = load(tmp_path, byte_fallback(), tokenizer_config={"bos_token": "<s>", "add_bos_token": True})
    assert tokenizer.encode_prompt("the")[0] == BOS
    assert tokenizer.encode_prompt("the").count(BOS) == 1
    assert BOS not in tokenizer.encode_rendered("the")


def test_the_post_processor_decides_where_the_config_is_silent(tmp_path: Path) -> None:
    assert load(tmp_path, with_template(), tokenizer_config={"bos_token": "<s>"}).encode_prompt("the").count(BOS) == 1
    assert BOS not in load(tmp_path, byte_fallback(), tokenizer_config={"bos_token": "<s>"}).encode_prompt("the")


def test_add_bos_token_false_overrules_the_post_processor(tmp_path: Path) -> None:
    tokenizer = load(tmp_path, with_template(), tokenizer_config={"bos_token": "<s>", "add_bos_token": False})
    assert BOS not in tokenizer.encode_prompt("the")


def test_a_prompt_that_brings_its_own_first_token_does_not_get_a_second(tmp_path: Path) -> None:
    tokenizer = load(tmp_path, with_template(), tokenizer_config={"bos_token": {"content": "<s>"}})
    assert tokenizer.encode_prompt("<s>the").count(BOS) == 1
    assert tokenizer.encode_rendered("<s>the").count(BOS) == 1


def test_an_empty_prompt_goes_on_from_the_first_token_alone(tmp_path: Path) -> None:
    assert load(tmp_path, byte_level(), tokenizer_config={"bos_token": "<|endoftext|>"}).encode_prompt("") == [264]
    assert load(tmp_path / "none", byte_level()).encode_prompt("") == []


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"generation_config": {"eos_token_id": [266, 264]}, "config": {"eos_token_id": 3}}, (264, 266)),
        ({"generation_config": {"eos_token_id": 266}}, (266,)),
        ({"generation_config": {}, "config": {"eos_token_id": [3]}}, (3,)),
        ({"tokenizer_config": {"eos_token": "<|im_end|>"}, "config": {"eos_token_id": 264}}, (264, 266)),
        ({"special_tokens_map": {"eos_token": {"content": "<|im_end|>"}}}, (266,)),
        ({"config": {"eos_token_id": None}}, ()),
        ({"config": {"eos_token_id": [99999, -1, True]}}, ()),
    ],
)
def test_stop_tokens_come_from_every_file_that_names_one(
    tmp_path: Path, files: dict[str, Any], expected: tuple[int, ...]
) -> None:
    assert load(tmp_path, byte_level(), **files).stop_tokens == expected


def test_special_tokens_are_bytes_for_logprobs_but_not_text(tmp_path: Path) -> None:
    tokenizer = load(tmp_path, byte_level())
    assert tokenizer.token_bytes(266) == b"<|im_end|>"
    assert tokenizer.decode([39, 266, 72]) == "Hi"


def test_tokens_beyond_the_tokenizer_are_nothing(tmp_path: Path) -> None:
    tokenizer = load(tmp_path, byte_level(), config={"vocab_size": 1000})
    assert tokenizer.vocab_size == 1000
    assert tokenizer.token_bytes(999) == b""
    assert tokenizer.decode([39, 999, 72]) == "Hi"


def test_a_number_that_is_no_token_is_refused_by_its_place(tmp_path: Path) -> None:
    tokenizer = load(tmp_path, byte_level())
    tokenizer.check_tokens([0, 266])
    for bad in (267, -1, 2**40):
        with pytest.raises(BadParameter, match=r"prompt\[1\]"):
            tokenizer.check_tokens([0, bad])


def test_settings_of_a_training_run_do_not_truncate_a_prompt(tmp_path: Path) -> None:
    fast = byte_level()
    fast.enable_truncation(4)
    fast.enable_padding(length=8)
    tokenizer = load(tmp_path, fast)
    assert len(tokenizer.encode_prompt("abcdefghijkl")) == 12
    assert len(tokenizer.encode_prompt("ab")) == 2


def test_a_metaspace_text_keeps_its_inner_spaces(tmp_path: Path) -> None:
    tokenizer = load(tmp_path, metaspace())
    assert tokenizer.decode(tokenizer.encode_rendered("the tin on")) == "the tin on"


def test_a_continuation_keeps_the_space_it_begins_with(tmp_path: Path) -> None:
    tokenizer = load(tmp_path, byte_fallback())
    tokens = tokenizer.encode_rendered("the tin")
    assert tokenizer.decode(tokens, at_start=True) == "the tin"
    assert tokenizer.decode(tokens, at_start=False) == " the tin"


def test_a_model_without_tokenizer_is_not_servable() -> None:
    with pytest.raises(NotServable, match=r"tokenizer\.json"):
        read_text_files({})


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"model": 1}', '{"decoder": null}'])
def test_a_broken_tokenizer_is_refused_by_name(tmp_path: Path, text: str) -> None:
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(MalformedFile, match=r"tokenizer\.json"):
        Tokenizer(read_text_files({"tokenizer.json": str(tmp_path / "tokenizer.json")}))


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "generation_config.json"])
@pytest.mark.parametrize("text", ["{", "[1]", "null", b"\xff"])
def test_a_broken_config_is_refused_by_name(tmp_path: Path, name: str, text: str | bytes) -> None:
    files = save(tmp_path, byte_level()) | {name: str(tmp_path / name)}
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(MalformedFile, match=name.replace(".", r"\.")):
        read_text_files(files)


def test_a_template_file_comes_before_the_entry_in_the_config(tmp_path: Path) -> None:
    files = save(tmp_path, byte_level(), tokenizer_config={"chat_template": "entry"})
    assert read_text_files(files).chat_template == "entry"
    (tmp_path / "chat_template.jinja").write_text("file")
    assert (
        read_text_files(files | {"chat_template.jinja": str(tmp_path / "chat_template.jinja")}).chat_template == "file"
    )


def test_of_several_templates_the_default_is_taken(tmp_path: Path) -> None:
    named = [{"name": "tools", "template": "T"}, {"name": "default", "template": "D"}]
    assert read_text_files(save(tmp_path, byte_level(), tokenizer_config={"chat_template": named})).chat_template == "D"
    assert (
        read_text_files(save(tmp_path, byte_level(), tokenizer_config={"chat_template": named[:1]})).chat_template
        is None
    )


def test_a_text_the_tokenizer_has_no_tokens_for_is_the_callers_mistake(tmp_path: Path) -> None:
    without_unknowns = FastTokenizer(models.WordLevel({"a": 0}, unk_token="absent"))
    without_unknowns.decoder = decoders.Fuse()
    tokenizer = load(tmp_path, without_unknowns)
    with pytest.raises(BadParameter, match="cannot take this text") as caught:
        tokenizer.encode_prompt("b")
    assert caught.value.param == "prompt"


def test_half_a_character_is_refused_in_a_text_and_ignored_in_a_files_token(tmp_path: Path) -> None:
    tokenizer = load(tmp_path, byte_level(), tokenizer_config={"bos_token": "\ud800"})
    assert tokenizer.bos_token is None
    with pytest.raises(BadParameter) as caught:
        tokenizer.encode_rendered("\ud800")
    assert caught.value.param == "messages"


@pytest.mark.parametrize("name", ["tokenizer.json", "generation_config.json"])
def test_a_file_nested_without_end_is_malformed(tmp_path: Path, name: str) -> None:
    files = save(tmp_path, byte_level(), generation_config={})
    Path(files[name]).write_text('{"a":' + "[" * 100_000)
    with pytest.raises(MalformedFile, match=name):
        Tokenizer(read_text_files(files))
