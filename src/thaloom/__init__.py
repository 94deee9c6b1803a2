"""Thaloom: an AI-native operating layer for Linux (智算操作层)."""

__version__ = "0.1.0"
