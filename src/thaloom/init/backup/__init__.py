"""Backups of a node: taken while it runs, verified when written, put back as a whole."""
