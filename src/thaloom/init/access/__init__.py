"""Who may ask, and the keys behind it."""
