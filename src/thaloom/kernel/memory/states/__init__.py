"""Arrays larger than the memory a job was given: in its slice while they are used, else in the tiers below it."""
