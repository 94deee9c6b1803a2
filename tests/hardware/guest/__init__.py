"""A small machine with a kernel of its own, in which tests run that this machine's kernel cannot show.

    image.py ──> an archive of what the suite needs ──> machine.py boots it ──> init.py runs pytest ──> telling.py
                                                                                 (first process)        (a line a case)

A host has one kernel and, mostly, one layout of control groups. The guest has version 2 with every controller, whatever
the host has: a kernel for cloud machines of the distribution (no modules are needed), emulated processors, no network,
nothing of the host shared. Emulation alone is used, also where the host could virtualise: one way, equally slow
everywhere, instead of one that depends on what lies below the host.

Two kinds of tests run there: those of `tests/system` that pass on any host (the guest is one more host), and
`v2_limits.py` and `v2_places.py`, which need a tree of version 2 with all rights on it.
By hand: `pytest tests/hardware/test_guest.py`.
"""
