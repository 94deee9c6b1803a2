"""Everything that is done to the machine because somebody asked: planned, journalled, carried out, verified, undone."""
