"""The error tree: complete, stable, and the same on both sides of a process border."""

import pytest

from thaloom.base import errors
from thaloom.base.errors import ERRORS, EXIT_CODES, BadParameter, InternalError, PromptTooLong, ThaloomError


@pytest.mark.parametrize("leaf", ERRORS.values(), ids=ERRORS.keys())
def test_every_leaf_says_status_exit_code_and_fault(leaf: type[ThaloomError]) -> None:
    assert 400 <= leaf.http_status < 600
    assert leaf.exit_code in EXIT_CODES
    assert leaf.exit_code != 0
    assert leaf.fault in ("caller", "host", "thaloom", "nobody")
    assert leaf("x").help_page == f"docs/errors.md#{leaf.code.replace('_', '-')}"


def test_the_drawing_at_the_top_names_every_leaf() -> None:
    drawing = (errors.__doc__ or "").split()
    assert {leaf.__name__ for leaf in ERRORS.values()} <= set(drawing)


def test_codes_are_unique() -> None:
    def leaves(kind: type[ThaloomError]) -> list[str]:
        own = [kind.code] if "code" in vars(kind) and kind is not ThaloomError else []
        return own + [code for child in kind.__subclasses__() for code in leaves(child)]

    codes = leaves(ThaloomError)
    assert len(codes) == len(set(codes)) == len(ERRORS)


def test_an_error_survives_a_process_border() -> None:
    sent = PromptTooLong("too long", param="messages", retry_after_s=1.5, prompt_tokens=10, context_length=8)
    received = ThaloomError.from_dict(sent.to_dict())
    assert type(received) is PromptTooLong
    assert (received.message, received.param, received.retry_after_s) == ("too long", "messages", 1.5)
    assert received.details == {"prompt_tokens": 10, "context_length": 8}


@pytest.mark.parametrize("data", [{}, {"code": "no_such_code", "message": "m"}, {"code": None}])
def test_an_unknown_code_becomes_an_internal_error(data: dict[str, object]) -> None:
    assert type(ThaloomError.from_dict(data)) is InternalError


def test_a_caller_is_not_told_to_retry_a_wrong_request() -> None:
    assert not BadParameter("x").retryable
