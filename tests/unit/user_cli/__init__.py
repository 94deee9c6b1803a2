"""The command line, verb by verb, against a made-up node."""
