"""A form with a file in it, however its bytes come in pieces, and whatever is wrong with it."""

from __future__ import annotations

import itertools

import pytest

from thaloom.base.errors import BadParameter, BadRequest, ThaloomError, TooLarge
from thaloom.edge.api.openai.kept.files.form import MAX_FIELD_BYTES, MAX_PARTS, FileForm

TYPE = 'multipart/form-data; boundary="b1"'


def part(name: str, value: bytes, *, filename: str | None = None) -> bytes:
    disposition = f'form-data; name="{name}"' + (f'; filename="{filename}"' if filename is not None else "")
    return b"--b1\r\nContent-Disposition: " + disposition.encode() + b"\r\nContent-Type: x/y\r\n\r\n" + value + b"\r\n"


END = b"--b1--\r\n"
DATA = b"one\r\n--b\r\n\r\n--b1x\x00\xff"
WHOLE = part("purpose", b"batch") + part("file", DATA, filename="ä.jsonl") + part("x", "世".encode()) + END


def read(body: bytes, size: int) -> tuple[bytes, FileForm]:
    form = FileForm(TYPE)
    found = b"".join(form.take(body[at : at + size]) for at in range(0, len(body), size))
    form.end()
    return found, form


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 10_000])
def test_the_file_comes_out_as_it_was_in_whatever_pieces_it_comes_in(size: int) -> None:
    found, form = read(WHOLE, size)
    assert found == DATA
    assert (form.filename, form.fields) == ("ä.jsonl", {"purpose": "batch", "x": "世"})


def test_a_form_cut_anywhere_is_refused() -> None:
    for end in itertools.chain(range(0, len(WHOLE) - len(END), 5), range(len(WHOLE) - len(END), len(WHOLE) - 4)):
        with pytest.raises(BadRequest):
            read(WHOLE[:end], 50)


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (part("purpose", b"batch") + END, BadParameter),
        (part("file", b"no name of a file") + END, BadParameter),
        (part("file", b"a", filename="a") + part("file", b"b", filename="b") + END, BadParameter),
        (part("x", b"y" * (MAX_FIELD_BYTES + 1)) + END, TooLarge),
        (part("x", b"y") * (MAX_PARTS + 1) + END, TooLarge),
        (b"--b1\r\n" + b"a" * 100_000 + b": b\r\n\r\n\r\n" + END, BadRequest),
        (b"nonsense" * 100, BadRequest),
        (b"", BadRequest),
    ],
)
def test_what_is_wrong_with_a_form_is_told(body: bytes, kind: type[ThaloomError]) -> None:
    with pytest.raises(kind):
        read(body, 4096)


@pytest.mark.parametrize(
    "content_type",
    [
        "",
        "application/json",
        "multipart/form-data",
        "multipart/form-data; boundary=",
        "multipart/form-data; boundary=" + "x" * 5000,
    ],
)
def test_what_is_no_form_is_refused(content_type: str) -> None:
    with pytest.raises(BadRequest):
        FileForm(content_type)
