"""Facts about models: what the store keeps and what others may know of it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal

from thaloom.base.errors import BadParameter
from thaloom.base.ids import Digest
from thaloom.hal.types import DType, WeightFormat

CHUNK_BYTES = 4 * 1024 * 1024
"""Objects are cut into chunks of this size; the last one is shorter."""

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,62}")


@dataclass(frozen=True, slots=True, order=True)
class ModelName:
    """`name` or `name:tag`; the tag is `latest` when left out."""

    name: str
    tag: str = "latest"

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name) or not _TAG.fullmatch(self.tag) or ".." in self.name + self.tag:
            raise BadParameter(
                f"not a model name: {str(self)!r} (lower-case letters, digits, '.', '_', '-', then an optional ':tag')",
                param="model",
            )

    @classmethod
    def parse(cls, text: str) -> ModelName:
        """Raises BadParameter for anything that is not a name."""
        name, colon, tag = text.partition(":")
        return cls(name, tag) if colon else cls(name)

    def __str__(self) -> str:
        return self.name if self.tag == "latest" else f"{self.name}:{self.tag}"


@dataclass(frozen=True, slots=True, kw_only=True)
class FileEntry:
    """One file of a model: where its bytes are in the store and what they must be."""

    path: str
    """Relative, with `/`; never absolute, never with `..`."""
    num_bytes: int
    tree: Digest
    """SHA-256 of the tree object that lists the chunks."""
    sha256: Digest
    """Plain SHA-256 of the whole file, checked once at import: the alias other tools know it by."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """What a model in whole numbers loses against its original, measured on one text."""

    text: str
    """Which text, and its SHA-256."""
    num_tokens: int
    perplexity: float
    original_perplexity: float
    mean_kl: float
    """Mean over the tokens of KL(original || this), in nats."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantisation:
    """How a model came to be what it is, if not all of it is as its makers stored it."""

    source: str
    """The format it came from: `GGUF`, `AWQ`, `GPTQ`, `compressed-tensors`, or `thaloom quantize int8`."""
    original: str
    """SHA-256 of the file it was made from, or the digest of the model in the store."""
    tensors: dict[str, int]
    """`Q4_K to int8` -> how many tensors."""
    relative_error: float
    """Root of the summed squares of what converting changed, over that of the values. 0: nothing changed at all."""
    quality: Quality | None = None
    """None: not measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantiseWish:
    """A model to be made in whole numbers of another."""

    model: ModelName
    to: WeightFormat
    name: ModelName
    replace: bool = False
    text: str | None = None
    """Absolute path of the text to measure on; None: the one that comes with Thaloom."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelTensor:
    """What goes into a model that is no language model, or comes out of it."""

    name: str
    dtype: str
    """As the Open Inference Protocol names it: `FP32`, `INT64`, `BYTES` ..."""
    shape: tuple[int, ...] | None
    """-1: any size; None: the file does not say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCard:
    """What a model says of itself, read from its files at import."""

    architecture: str
    """The name in config.json's `architectures`, as `LlamaForCausalLM`; empty if there is no config."""
    family: str
    """config.json's `model_type`, as `llama`; empty if there is none."""
    num_parameters: int
    dtypes: tuple[DType, ...]
    weight_bytes: int
    context_length: int | None
    vocab_size: int | None
    has_tokenizer: bool
    has_chat_template: bool
    """A template that tells speakers apart: the model takes part in conversations, and does not only continue texts."""
    license: str | None = None
    summary: str | None = None
    quantisation: Quantisation | None = None
    """None: its tensors are as their makers stored them."""
    inputs: tuple[ModelTensor, ...] = ()
    """Of a model that is no language model."""
    outputs: tuple[ModelTensor, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A model of the store: a name for a set of files. Immutable; a new import of the name makes a new one."""

    name: ModelName
    digest: Digest
    """SHA-256 of the canonical text of the files' list: two equal models have equal digests."""
    files: tuple[FileEntry, ...]
    card: ModelCard
    created_at: float
    """Seconds since the epoch."""
    source: str
    """Where it was imported from, for people."""
    encrypted: bool = False
    """Whether its bytes lie on the disk in cipher only (kernel.trust.sealed). Its digest is the same either way."""

    @property
    def total_bytes(self) -> int:
        return sum(file.num_bytes for file in self.files)


@dataclass(frozen=True, slots=True, kw_only=True)
class FileFault:
    """What is wrong with one file of a model."""

    path: str
    problem: Literal["missing", "altered", "truncated", "unreadable"]
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """The outcome of reading every byte of a model again. Sound only if `faults` is empty."""

    name: ModelName
    checked_bytes: int
    faults: tuple[FileFault, ...] = field(default=())

    @property
    def sound(self) -> bool:
        return not self.faults


Hub = Literal["hf", "ms"]
"""Hugging Face's hub or whoever speaks like it; ModelScope."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HubModel:
    """A model of a hub, as somebody asked for it. Only names: nothing of it is known to exist."""

    hub: Hub
    repo: str
    """`org/name`, or `name`."""
    revision: str
    """A branch, a tag or a commit."""
    choice: str | None = None
    """One GGUF file of several: its path, or a part of its name such as `Q4_K_M`. None: the whole model."""
    endpoint: str | None = None
    """`https://host`, without a slash at the end. None: where the settings say."""

    def __str__(self) -> str:
        chosen = "" if self.choice is None else f":{self.choice}"
        return f"{self.hub}://{self.repo}@{self.revision}{chosen}"


@dataclass(frozen=True, slots=True, kw_only=True)
class HubSettings:
    """Where hubs are and who asks. Tokens are for those endpoints alone; nothing logs or keeps them."""

    hf_endpoint: str | None = None
    hf_token: str | None = field(default=None, repr=False)
    ms_endpoint: str | None = None
    ms_token: str | None = field(default=None, repr=False)
    offline: bool = False
    """As HF_HUB_OFFLINE: no hub is asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnfinishedPull:
    """What is there of a model that was not pulled to its end."""

    source: str
    """As `thaloom pull` takes it."""
    commit: str
    done_bytes: int
    total_bytes: int
    begun_at: float
    running: bool = False
