"""A form with a file in it (multipart/form-data, RFC 7578), taken in piece by piece: what is a file goes to whoever
keeps it, everything else is a few short words."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from thaloom.base.errors import BadParameter, BadRequest, TooLarge

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartParser

MAX_PARTS = 32
MAX_FIELD_BYTES = 64 * 1024


class FileForm:
    """Feed it the body with `take`; then `end`. Not the file's bytes, but what `take` returns, is to be written.

    `fields`: the words, by name, of those that come often the last; `lists`: all of them, in order; `filename`: of the
    part `file`, None until it was there.
    """

    def __init__(self, content_type: str) -> None:
        from python_multipart.exceptions import FormParserError
        from python_multipart.multipart import MultipartParser, parse_options_header

        logging.getLogger("python_multipart").setLevel(logging.ERROR)  # complains per byte of a broken body
        kind, options = parse_options_header(content_type)
        if kind != b"multipart/form-data" or not options.get(b"boundary"):
            raise BadRequest("a file is sent as multipart/form-data, with a boundary")
        self._error = FormParserError
        self._parse_header = parse_options_header
        try:
            self._parser: MultipartParser = MultipartParser(
                options[b"boundary"],
                {
                    "on_part_begin": self._part_begins,
                    "on_header_field": lambda data, start, end: self._grow("_header_name", data[start:end]),
                    "on_header_value": lambda data, start, end: self._grow("_header_value", data[start:end]),
                    "on_header_end": self._header_ends,
                    "on_headers_finished": self._headers_end,
                    "on_part_data": lambda data, start, end: self._data(data[start:end]),
                    "on_part_end": self._part_ends,
                    "on_end": self._ends,
                },
            )
        except FormParserError as error:
            raise BadRequest(f"the form cannot be read: {error}") from error
        self.fields: dict[str, str] = {}
        self.lists: dict[str, list[str]] = {}
        self.filename: str | None = None
        self._num_parts = 0
        self._whole = False
        self._of_file: list[bytes] = []
        self._name = ""
        self._is_file = False
        self._field = b""
        self._header_name = b""
        self._header_value = b""
        self._disposition = ""

    def take(self, data: bytes) -> bytes:
        """What of this piece belongs to the file. Raises BadRequest, BadParameter, TooLarge."""
        try:
            self._parser.write(data)
        except self._error as error:
            raise BadRequest(f"the form cannot be read: {error}") from error
        found = b"".join(self._of_file)
        self._of_file.clear()
        return found

    def end(self) -> None:
        """The body has ended. Raises BadRequest if the form has not, BadParameter if there was no file in it."""
        if not self._whole:
            raise BadRequest("the form ends before its last boundary")
        if self.filename is None:
            raise BadParameter("file: the form has no part of this name with a filename", param="file")

    def _part_begins(self) -> None:
        self._num_parts += 1
        if self._num_parts > MAX_PARTS:
            raise TooLarge(f"the form has more than {MAX_PARTS} parts")
        self._name, self._is_file, self._field, self._disposition = "", False, b"", ""
        self._header_name, self._header_value = b"", b""

    def _grow(self, name: str, data: bytes) -> None:
        setattr(self, name, getattr(self, name) + data)  # bounded by the parser's own limit on a header

    def _header_ends(self) -> None:
        if self._header_name.lower() == b"content-disposition":
            self._disposition = self._header_value.decode("latin-1")
        self._header_name, self._header_value = b"", b""

    def _headers_end(self) -> None:
        _, options = self._parse_header(self._disposition)
        self._name = options.get(b"name", b"").decode("utf-8", "replace")
        self._is_file = self._name == "file" and b"filename" in options
        if self._is_file:
            if self.filename is not None:
                raise BadParameter("file: the form has more than one", param="file")
            self.filename = options[b"filename"].decode("utf-8", "replace")

    def _data(self, data: bytes) -> None:
        if self._is_file:
            self._of_file.append(data)
            return
        self._field += data
        if len(self._field) > MAX_FIELD_BYTES:
            raise TooLarge(f"the form's field {self._name[:40]!r} has more than {MAX_FIELD_BYTES} bytes")

    def _part_ends(self) -> None:
        if not self._is_file:
            self.fields[self._name] = self._field.decode("utf-8", "replace")
            self.lists.setdefault(self._name, []).append(self.fields[self._name])

    def _ends(self) -> None:
        self._whole = True
