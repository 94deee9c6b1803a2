"""Walls around programs: what each may use, see and reach, and how it is named when it meets one. See README.md."""
