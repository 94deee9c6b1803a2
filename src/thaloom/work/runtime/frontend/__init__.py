"""The door's half: a request is text here."""
