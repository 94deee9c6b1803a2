"""Thaloom: an AI-native operating layer for Linux (智算操作层).

`thaloom.Client` and `thaloom.AsyncClient` call a node (docs/sdk.md); `thaloom.errors` is the tree of what they raise.
They are imported when they are first asked for: the command line begins here too, and must begin at once. What static
checkers shall know of them is in `__init__.pyi`, which no floor imports.
"""

__version__ = "0.1.0"
__all__ = ["AsyncClient", "Client", "Retries", "__version__", "errors"]

_SDK = ("AsyncClient", "Client", "Retries")


def __getattr__(name: str) -> object:
    from importlib import import_module

    if name in _SDK:
        return getattr(import_module("thaloom.edge.client.sdk"), name)
    if name == "errors":
        return import_module("thaloom.base.errors")
    raise AttributeError(f"module 'thaloom' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
