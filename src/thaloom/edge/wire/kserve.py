"""Messages of the Open Inference Protocol (KServe v2), JSON. Source: open-inference-protocol, "Open Inference Protocol
(V2)", REST; and its binary tensor data extension."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from thaloom.edge.wire.common import Answer, Ask

DataType = Literal[
    "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64", "BYTES"
]
HEADER_LENGTH = "inference-header-content-length"
"""With binary tensors: how many bytes of the body are JSON."""
EXTENSIONS = ("binary_tensor_data",)


class InputParameters(Ask):
    binary_data_size: int | None = Field(default=None, ge=0)
    """The tensor's bytes follow the JSON, in the order of the inputs."""


class OutputParameters(Ask):
    binary_data: bool = False
    classification: None = None
    """Not served."""


class RequestParameters(Ask):
    binary_data_output: bool = False
    """Of all outputs that do not say otherwise."""


class RequestInput(Ask):
    name: str
    shape: list[Annotated[int, Field(ge=0, le=2**31 - 1)]] = Field(max_length=16)
    datatype: DataType
    parameters: InputParameters | None = None
    data: list[Any] | None = None
    """Rows first, flat or nested; of BYTES texts."""


class RequestOutput(Ask):
    name: str
    parameters: OutputParameters | None = None


class InferenceRequest(Ask):
    id: str | None = Field(default=None, max_length=256)
    parameters: RequestParameters | None = None
    inputs: list[RequestInput] = Field(min_length=1, max_length=256)
    outputs: list[RequestOutput] | None = Field(default=None, max_length=256)


class ResponseOutput(Answer):
    name: str
    shape: list[int]
    datatype: DataType
    parameters: dict[str, Any] | None = None
    data: list[Any] | None = None


class InferenceResponse(Answer):
    model_name: str
    id: str | None = None
    outputs: list[ResponseOutput]


class TensorMetadata(Answer):
    name: str
    datatype: str
    shape: list[int]
    """-1: any size."""


class ModelMetadata(Answer):
    name: str
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class ServerMetadata(Answer):
    name: str
    version: str
    extensions: list[str]


class Live(Answer):
    live: bool


class Ready(Answer):
    ready: bool


class ModelReady(Answer):
    name: str
    ready: bool


class InferenceError(Answer):
    error: str
    code: str
    """Ours (docs/errors.md)."""
