"""From a GGUF file's vocabulary to tokenizer.json and the small files beside it.

Byte-level BPE (`tokenizer.ggml.model` = "gpt2") carries its merges and names how text is cut into words before; a name
that is not in `WORDS` is refused, because a guess would give other tokens, silently. Source of the cuts: llama.cpp,
src/llama-vocab.cpp (`pre_type`), and the tokenizer.json files of the models each name stands for.
SentencePiece vocabularies ("llama") are in `gguf_sentencepiece`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from thaloom.base.errors import MalformedFile, NotServable
from thaloom.kernel.models.gguf import Value
from thaloom.kernel.models.gguf_sentencepiece import sentencepiece
from thaloom.kernel.models.gguf_vocabulary import Vocabulary

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")

WORDS: dict[str, tuple[str, ...]] = {
    "default": (r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", r"[0-9][0-9][0-9]"),
    "gpt-2": (_GPT2,), "phi-2": (_GPT2,),
    "smollm": (r"\p{N}", _GPT2), "starcoder": (r"\p{N}", _GPT2), "refact": (r"\p{N}", _GPT2),
    "command-r": (r"\p{N}", _GPT2),
    "llama-bpe": (_LLAMA3,), "llama3": (_LLAMA3,), "llama-v3": (_LLAMA3,),
    "qwen2": (_QWEN2,), "deepseek-r1-qwen": (_QWEN2,),
}  # fmt: skip
"""How text is cut before merging, one pattern after the other. `tokenizer.ggml.pre` names the entry."""
_LLAMA3_NAMES = frozenset({"llama-bpe", "llama3", "llama-v3"})
"""Take a word that is a token whole, before merging, and begin texts with a token of their own."""
_NORMALIZED = frozenset({"qwen2", "deepseek-r1-qwen"})


def text_files(file: str, metadata: Mapping[str, Value], config: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Name -> JSON of tokenizer.json, tokenizer_config.json and generation_config.json; `config` gets its token ids.

    Empty if the file has no vocabulary. Raises NotServable naming the kind that is not read, MalformedFile.
    """
    kind = metadata.get("tokenizer.ggml.model", "none")
    if kind in ("none", "no_vocab"):
        return {}
    vocabulary = Vocabulary.read(file, metadata, config["vocab_size"])
    if kind == "gpt2":
        add_bos, tokenizer = _byte_level(file, metadata, vocabulary)
    elif kind == "llama":
        add_bos, tokenizer = True, sentencepiece(file, metadata, vocabulary)
    else:
        raise NotServable(f"{file!r} has a vocabulary of kind {kind!r}; gpt2 and llama are read", param="path")
    facts: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": config["max_position_embeddings"],
        "clean_up_tokenization_spaces": False,
        "add_bos_token": _flag(file, metadata, "tokenizer.ggml.add_bos_token", add_bos),
    }
    for role in ("bos", "eos", "unknown", "padding"):
        token = vocabulary.token_id(f"tokenizer.ggml.{role}_token_id")
        if token is not None:
            name = {"unknown": "unk", "padding": "pad"}.get(role, role)
            facts[f"{name}_token"] = vocabulary.tokens[token]
            config[f"{name}_token_id"] = token
    template = metadata.get("tokenizer.chat_template")
    if isinstance(template, str):
        facts["chat_template"] = template
    ends = [vocabulary.token_id(f"tokenizer.ggml.{role}_token_id") for role in ("eos", "eot", "eom")]
    ids = list(dict.fromkeys(token for token in ends if token is not None))
    generation: dict[str, Any] = {"eos_token_id": ids} if ids else {}
    return {"tokenizer.json": tokenizer, "tokenizer_config.json": facts, "generation_config.json": generation}


def _byte_level(file: str, metadata: Mapping[str, Value], vocabulary: Vocabulary) -> tuple[bool, dict[str, Any]]:
    """(whether texts begin with a token of their own, tokenizer.json)."""
    cut = metadata.get("tokenizer.ggml.pre", "default")
    if not isinstance(cut, str) or cut not in WORDS:
        raise NotServable(
            f"{file!r} cuts text into words as {str(cut)[:80]!r} does; known are {', '.join(WORDS)}", param="path"
        )
    merges = metadata.get("tokenizer.ggml.merges")
    if not isinstance(merges, tuple):
        raise MalformedFile(f"{file!r} has a gpt2 vocabulary without 'tokenizer.ggml.merges'", file=file)
    splits = [
        {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
        for pattern in WORDS[cut]
    ]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    return cut in _LLAMA3_NAMES, {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": vocabulary.added_tokens(),
        "normalizer": {"type": "NFC"} if cut in _NORMALIZED else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [*splits, byte_level]},
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": cut in _LLAMA3_NAMES,
            "vocab": vocabulary.numbers(),
            "merges": _pairs(file, merges, vocabulary.numbers()),
        },
    }


def _pairs(file: str, merges: tuple[str, ...], numbers: Mapping[str, int]) -> list[list[str]]:
    pairs = []
    for merge in merges:
        left, space, right = merge.partition(" ")
        if not space or left not in numbers or right not in numbers or left + right not in numbers:
            raise MalformedFile(f"{file!r} has the merge {merge[:80]!r} of what are no tokens", file=file)
        pairs.append([left, right])
    return pairs


def _flag(file: str, metadata: Mapping[str, Value], key: str, default: bool) -> bool:
    value = metadata.get(key, default)
    if not isinstance(value, bool):
        raise MalformedFile(f"{file!r} has {key!r} that is neither true nor false", file=file)
    return value
