"""Messages as they travel, versioned."""
