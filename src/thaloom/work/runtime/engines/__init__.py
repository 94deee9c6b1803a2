"""Foreign engines: servers that others wrote, kept and asked by a worker of ours (README.md beside this file)."""
