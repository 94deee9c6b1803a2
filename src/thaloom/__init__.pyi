from thaloom.base import errors as errors
from thaloom.edge.client.sdk import AsyncClient as AsyncClient
from thaloom.edge.client.sdk import Client as Client
from thaloom.edge.client.sdk import Retries as Retries

__version__: str
