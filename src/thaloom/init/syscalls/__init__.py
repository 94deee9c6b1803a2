"""What may be asked of the node: the one way in, for people and programs alike."""
