"""Turns at a device that several workers share."""
