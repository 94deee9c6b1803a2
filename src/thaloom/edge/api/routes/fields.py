"""A body's fields, checked."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from thaloom.base.errors import BadParameter
from thaloom.edge.api.errors import from_validation

F = TypeVar("F", bound=BaseModel)
_MOST = 2**64


def validate(kind: type[F], data: Any, *, within: str = "") -> F:
    """`within`: the field that `data` is the value of. Raises BadParameter.

    5.0 is taken for 5, as JSON does not tell them apart (JSON Schema, 4.2.3).
    """
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        kinds = {details["type"] for details in error.errors(include_url=False, include_context=False)}
        if "int_type" not in kinds:
            raise _complaint(error, data, within) from error
    try:
        return kind.model_validate(_with_whole_numbers(data))
    except ValidationError as error:
        raise _complaint(error, data, within) from error


def _complaint(error: ValidationError, data: Any, within: str) -> BadParameter:
    complaint = from_validation(error, data)
    if not within:
        return complaint
    return BadParameter(f"{within}.{complaint.message}", param=f"{within}.{complaint.param}")


def _with_whole_numbers(data: Any) -> Any:
    """A copy in which every float that is a whole number is an int. The parser has bounded how deep it goes."""
    if isinstance(data, dict):
        return {name: _with_whole_numbers(value) for name, value in data.items()}
    if isinstance(data, list):
        return [_with_whole_numbers(value) for value in data]
    if isinstance(data, float) and data.is_integer() and abs(data) <= _MOST:
        return int(data)
    return data
