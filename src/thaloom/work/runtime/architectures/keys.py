"""Reading config.json strictly: every key is either used, known to be harmless, or refused by name."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NoReturn

from thaloom.base.errors import NotServable
from thaloom.work.runtime.architectures import Config

HARMLESS = frozenset(
    {
        "architectures", "model_type", "torch_dtype", "dtype", "transformers_version", "use_cache", "pretraining_tp",
        "initializer_range", "attention_dropout", "hidden_dropout", "resid_pdrop", "return_dict", "id2label",
        "label2id", "output_attentions", "output_hidden_states", "chunk_size_feed_forward", "problem_type",
        "task_specific_params",
        "is_decoder", "attn_implementation", "keys_to_ignore_at_inference", "eos_token_id", "bos_token_id",
        "pad_token_id", "unk_token_id", "sep_token_id", "tokenizer_class", "auto_map", "use_bfloat16",
        "prefix", "finetuning_task", "unsloth_version", "unsloth_fixed",
    }
)  # fmt: skip
"""Keys that cannot change the logits of a dense causal model: training, bookkeeping, tokens' numbers."""


class Keys:
    """One pass over a config: `take` each key that is understood, then `finish`."""

    def __init__(self, config: Config, *, where: str = "") -> None:
        self._config = config
        self._where = where
        self._taken: set[str] = set()

    def integer(self, key: str, default: int | None = None, *, least: int = 1) -> int:
        value = self._take(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            self.refuse(key, value, f"a whole number from {least}")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        value = self._take(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
            self.refuse(key, value, "a number above 0")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        value = self._take(key, default)
        if not isinstance(value, bool):
            self.refuse(key, value, "true or false")
        return value

    def word(self, key: str, default: str) -> str:
        value = self._take(key, default)
        if not isinstance(value, str):
            self.refuse(key, value, "a text")
        return value

    def has(self, key: str) -> bool:
        """Whether the key is there with a value other than null."""
        return self._config.get(key) is not None

    def raw(self, key: str) -> object:
        self._taken.add(key)
        return self._config.get(key)

    def finish(self, harmless: Iterable[str] = HARMLESS) -> None:
        """Raises NotServable for the first key, in order of name, that nobody took and that asks for something."""
        left = set(self._config) - self._taken - set(harmless)
        for key in sorted(left):
            if not key.startswith("_") and self._config[key]:
                self.refuse(key, self._config[key], "absent: this family has no such thing")

    def refuse(self, key: str, value: object, expected: str) -> NoReturn:
        name = self._where + key
        raise NotServable(f"config.json: {name!r} is {value!r}; expected {expected}", param=name)

    def _take(self, key: str, default: object) -> object:
        self._taken.add(key)
        value = self._config.get(key)
        if value is None:
            value = default
        if value is None:
            raise NotServable(f"config.json lacks {self._where + key!r}", param=self._where + key)
        return value
