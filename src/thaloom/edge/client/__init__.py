"""Caller side: what programs of users speak through."""
