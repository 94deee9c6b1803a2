"""A passphrase from a person: asked at the terminal, or read from a descriptor; never a word of the command line."""

from __future__ import annotations

import getpass
import os
import sys

from thaloom.base import config
from thaloom.base.errors import BadParameter
from thaloom.user.cli.texts import text


def asked(*, twice: bool = False) -> str:
    """Raises BadParameter without a terminal, or if it was not typed the same twice."""
    if not sys.stdin.isatty():
        raise BadParameter(text("key.no_terminal"), param="passphrase")
    first = getpass.getpass(text("key.ask"))
    if twice and getpass.getpass(text("key.ask_again")) != first:
        raise BadParameter(text("key.differ"), param="passphrase")
    return first


def read_all(descriptor: int) -> str:
    """What a descriptor gives up to the end of its first line. Raises BadParameter."""
    try:
        with os.fdopen(descriptor, "r", encoding="utf-8") as file:
            return file.readline(2048).rstrip("\r\n")
    except (OSError, ValueError) as error:
        raise BadParameter(f"descriptor {descriptor} cannot be read: {error}", param="passphrase_fd") from error


def given_passphrase(*, ask: bool, descriptor: int | None) -> int | None:
    """A descriptor the daemon may read the passphrase from; None if nobody gives one."""
    if descriptor is not None:
        try:
            os.fstat(descriptor)
        except OSError as error:
            raise BadParameter(f"descriptor {descriptor} is not open", param="passphrase_fd") from error
        return descriptor
    if not ask:
        return None
    made = os.memfd_create("passphrase", 0)
    os.write(made, asked(twice=not (config.home() / "models" / "keyring.json").exists()).encode())
    os.lseek(made, 0, os.SEEK_SET)
    return made
