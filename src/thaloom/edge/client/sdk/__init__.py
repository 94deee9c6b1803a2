"""The Python SDK: `thaloom.Client` and `thaloom.AsyncClient`.

What is called `async_...` is written; the files without are made from those by tools/generate_sync_client.py. What both
share has no waiting in it: `calls`, `answers`, `retries`, `settings`.
"""

from thaloom.edge.client.sdk.async_client import AsyncClient
from thaloom.edge.client.sdk.client import Client
from thaloom.edge.client.sdk.retries import Retries

__all__ = ["AsyncClient", "Client", "Retries"]
