"""A real node, and whatever can be sent to its door. `python -m tests.fuzz_door` says how to run it.

sound.py      one right request for every operation of the door
harms.py      what is done to a body
explosions.py schemas, expressions and grammars that would take for ever
transport.py  what is done to HTTP itself
cases.py      case number N of a seed, as bytes and pauses
talking.py    sends a case and reads what comes, strictly
judging.py    whether that may be an answer
node.py       the node, and what it holds before and afterwards
"""
