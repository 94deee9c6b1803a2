"""What the command line promises to scripts and people: kept for every verb."""
