"""Bytes and who holds them: the ledger, and the block pool of keys and values."""
