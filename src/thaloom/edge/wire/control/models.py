"""The store: models, what comes and goes, and the streams that tell of it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, TypeAdapter

from thaloom.edge.wire.control.base import Answer, Ask, Progress, StreamError


class HubAccess(Ask):
    """Where hubs are and who asks: what the caller's environment says. What is left out is the node's own."""

    hf_endpoint: str | None = None
    hf_token: str | None = Field(default=None, repr=False)
    ms_endpoint: str | None = None
    ms_token: str | None = Field(default=None, repr=False)
    offline: bool = False
    """Ask no hub (HF_HUB_OFFLINE)."""


class PullRequest(Ask):
    """Body of `POST models/pull`: import a folder or file of this machine, or a model that came with Thaloom, or fetch
    one from a hub. Whoever leaves ends an import; a pull from a hub goes on, and may be asked for again."""

    source: str = Field(min_length=1)
    """An absolute path (the node does not know where its caller stands), the name of a bundled model (`tiny`), or a
    hub's model: `org/name`, `hf://org/name@revision`, `ms://org/name`, `org/name:file.gguf`, its page's address."""
    name: str | None = None
    """Default: made from the source."""
    replace: bool = False
    """Whether a model of that name may be replaced; otherwise it is refused with `name_taken`."""
    hub: HubAccess = HubAccess()
    encrypt: bool | None = None
    """Whether its bytes are kept in cipher; null: as the node's settings say."""
    read_through: bool = False
    """Asked on behalf of somebody who asks this node's own hub: refused unless the node allows it."""


class ConvertRequest(Ask):
    """Body of `POST models/NAME/encrypt` and `.../decrypt`."""

    name: str | None = None
    """Default: the model itself, in its place."""
    replace: bool = False
    """Whether another model of that name may be replaced."""


class CopyRequest(Ask):
    """Body of `POST models/NAME/copy`: give the model a second name. No byte of it is copied."""

    name: str
    replace: bool = False
    """Whether a model of that name may be replaced; otherwise it is refused with `name_taken`."""


class QuantiseRequest(Ask):
    """Body of `POST models/NAME/quantise`: make a model in whole numbers of one in floats."""

    to: Literal["int8", "int4"]
    name: str | None = None
    """Default: the model's name with `-int8` or `-int4`."""
    replace: bool = False
    text: str | None = None
    """Absolute path of a text to measure on. Default: the sample that comes with Thaloom."""


class ModelFile(Answer):
    path: str
    num_bytes: int
    sha256: str


class Quality(Answer):
    """Measured on one text; `mean_kl` in nats per token, of the original over this model."""

    text: str
    num_tokens: int
    perplexity: float
    original_perplexity: float
    mean_kl: float


class Quantisation(Answer):
    """What was converted, from what, and what that changed. `quality` null: not measured."""

    source: str
    original: str
    tensors: dict[str, int]
    relative_error: float
    quality: Quality | None


class ModelTensor(Answer):
    """What goes into a model that is no language model, or comes out of it. `shape`: -1 is any size."""

    name: str
    dtype: str
    shape: list[int] | None


class ModelCard(Answer):
    architecture: str
    family: str
    num_parameters: int
    dtypes: list[str]
    weight_bytes: int
    context_length: int | None
    vocab_size: int | None
    has_tokenizer: bool
    has_chat_template: bool
    license: str | None
    summary: str | None
    quantisation: Quantisation | None = None
    inputs: list[ModelTensor] = []
    outputs: list[ModelTensor] = []


class Model(Answer):
    name: str
    digest: str
    total_bytes: int
    created_at: float
    source: str
    encrypted: bool = False
    card: ModelCard
    files: list[ModelFile]


class Models(Answer):
    models: list[Model]


class UnfinishedPull(Answer):
    """What is there of a model that was not pulled to its end. `running`: it is being pulled at this moment."""

    source: str
    commit: str
    done_bytes: int
    total_bytes: int
    begun_at: float
    running: bool


class UnfinishedPulls(Answer):
    pulls: list[UnfinishedPull]


class RefusedCall(Answer):
    """A call that would have left this machine, and did not."""

    time: float
    purpose: str
    method: str
    url: str
    reason: str


class Outgoing(Answer):
    """`closed`: why nothing goes out, or null. `refused`: the latest calls that did not, the oldest first."""

    closed: str | None
    refused: list[RefusedCall]


class FileFault(Answer):
    path: str
    problem: str
    message: str


class Verification(Answer):
    """Every byte of the model was read again. Sound only if `faults` is empty."""

    name: str
    checked_bytes: int
    sound: bool
    faults: list[FileFault]


class PullDone(Answer):
    kind: Literal["done"] = "done"
    model: Model


class VerifyDone(Answer):
    kind: Literal["done"] = "done"
    verification: Verification


PullLine = Annotated[Progress | PullDone | StreamError, Field(discriminator="kind")]
VerifyLine = Annotated[Progress | VerifyDone | StreamError, Field(discriminator="kind")]
_LATER = ConfigDict(defer_build=True)
"""A validator is made when it is first used: a command uses three of them, and they take a third of its time."""
PULL_LINE: TypeAdapter[Progress | PullDone | StreamError] = TypeAdapter(PullLine, config=_LATER)
VERIFY_LINE: TypeAdapter[Progress | VerifyDone | StreamError] = TypeAdapter(VerifyLine, config=_LATER)
