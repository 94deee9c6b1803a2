"""Engines side by side on this machine: `make bench-engine`. What is measured and how: README.md beside this file."""
