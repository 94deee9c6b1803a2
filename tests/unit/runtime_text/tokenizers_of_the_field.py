"""Small tokenizers of the three kinds that decoders of the field use, as tokenizer.json folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE

from tests.models import make_tokenizer

LETTERS = "▁etaoinshr"
MERGES = [("▁", "t"), ("▁t", "h"), ("▁th", "e"), ("i", "n"), ("o", "n")]


def byte_level() -> Tokenizer:
    return make_tokenizer()


def byte_fallback() -> Tokenizer:
    """As Llama 2 and Mistral: `▁` for spaces, `<0xNN>` for what the vocabulary lacks."""
    words = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *LETTERS]
    words += [left + right for left, right in MERGES]
    model = BPE({word: index for index, word in enumerate(words)}, MERGES, unk_token="<unk>", byte_fallback=True)
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens([AddedToken(word, special=True) for word in ("<unk>", "<s>", "</s>")])
    return tokenizer


def metaspace() -> Tokenizer:
    """As SentencePiece models without bytes."""
    words = ["<unk>", *LETTERS, *(left + right for left, right in MERGES)]
    tokenizer = Tokenizer(BPE({word: index for index, word in enumerate(words)}, MERGES, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return tokenizer


def save(folder: Path, tokenizer: Tokenizer, **files: Any) -> dict[str, str]:
    """Write the tokenizer and the named files (`config={...}` becomes config.json); their paths, by name."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    return {path.name: str(path) for path in folder.iterdir()}
