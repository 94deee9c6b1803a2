"""Jobs: programs that are run to their end. See README.md."""
