"""Bytes that a device has no room for, in host memory and on disk. Each tier has a bound; what is worth least goes."""
