"""A worker's connection to one client, to its end."""

from __future__ import annotations

import asyncio
import socket
from typing import cast

from thaloom.base.errors import QueueFull
from thaloom.work.runtime.messages import GetStatus, encode
from thaloom.work.runtime.worker.connection import Connection, Host, Patience


def test_what_is_left_to_be_sent_when_it_is_closed_is_sent_and_no_failure() -> None:
    """asyncio's transport, cut after it had closed by itself, fails inside: `NoneType` has no `call_soon`."""

    async def run() -> tuple[int, bool]:
        ours, theirs = socket.socketpair()
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        reader, writer = await asyncio.open_connection(sock=ours)
        connection = Connection(reader, writer, cast(Host, None), Patience())
        theirs.sendall(encode(GetStatus()))
        task = asyncio.create_task(connection.attend(QueueFull("x" * 60_000)))
        while not writer.transport.is_closing():
            await asyncio.sleep(0)
        was_left = writer.transport.get_write_buffer_size() > 0
        num_read = 0
        while data := await asyncio.to_thread(theirs.recv, 65536):
            num_read += len(data)
        theirs.close()
        await task
        return num_read, was_left

    num_read, was_left = asyncio.run(run())
    assert was_left
    assert num_read > 60_000
