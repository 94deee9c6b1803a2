"""Identity, signatures, scans, bills of materials. Empty so far; the floors already know the room."""
