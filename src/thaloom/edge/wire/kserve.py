"""Messages of the Open Inference Protocol (KServe v2), JSON. Source: open-inference-protocol, "Open Inference Protocol
(V2)", REST; and its binary tensor data extension."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

DataType = Literal[
    "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64", "BYTES"
]
HEADER_LENGTH = "inference-header-content-length"
"""With binary tensors: how many bytes of the body are JSON."""
EXTENSIONS = ("binary_tensor_data",)


class _Asked(BaseModel):
    """Unknown fields are ignored, as in the protocol's own servers; wrong ones are refused by name."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)


class InputParameters(_Asked):
    binary_data_size: int | None = Field(default=None, ge=0)
    """The tensor's bytes follow the JSON, in the order of the inputs."""


class OutputParameters(_Asked):
    binary_data: bool = False
    classification: None = None
    """Not served."""


class RequestParameters(_Asked):
    binary_data_output: bool = False
    """Of all outputs that do not say otherwise."""


class RequestInput(_Asked):
    name: str
    shape: list[Annotated[int, Field(ge=0, le=2**31 - 1)]] = Field(max_length=16)
    datatype: DataType
    parameters: InputParameters | None = None
    data: list[Any] | None = None
    """Rows first, flat or nested; of BYTES texts."""


class RequestOutput(_Asked):
    name: str
    parameters: OutputParameters | None = None


class InferenceRequest(_Asked):
    id: str | None = Field(default=None, max_length=256)
    parameters: RequestParameters | None = None
    inputs: list[RequestInput] = Field(min_length=1, max_length=256)
    outputs: list[RequestOutput] | None = Field(default=None, max_length=256)


class ResponseOutput(BaseModel):
    name: str
    shape: list[int]
    datatype: DataType
    parameters: dict[str, Any] | None = None
    data: list[Any] | None = None


class InferenceResponse(BaseModel):
    model_name: str
    id: str | None = None
    outputs: list[ResponseOutput]


class TensorMetadata(BaseModel):
    name: str
    datatype: str
    shape: list[int]
    """-1: any size."""


class ModelMetadata(BaseModel):
    name: str
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class ServerMetadata(BaseModel):
    name: str
    version: str
    extensions: list[str]


class Live(BaseModel):
    live: bool


class Ready(BaseModel):
    ready: bool


class ModelReady(BaseModel):
    name: str
    ready: bool


class InferenceError(BaseModel):
    error: str
    code: str
    """Ours (docs/errors.md)."""
