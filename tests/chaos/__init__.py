"""Chaos: a real node under kill -9, full disks and revoked keys while clients stream, judged, and searched for leaks.

schedule    when what strikes: made from a seed alone                       pure
facts       what was done to the node, and what each client saw
judge       which failures those faults allow; any other fails the run      pure
stage       the node: its own disk, what it is to serve, who starts its daemon again
clients     who streams, who writes; and the answers known before
operators   who changes the node meanwhile, by ids, and knows what must come of it
jobs        who has jobs done, and what must come of them
striking    how each fault is carried out
leaks       what a node holds at rest, before and after
"""
