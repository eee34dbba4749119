"""The mesh as one seeded simulation: the real broker core and sessions, on a fake clock and a fake network.

``python -m tests.sim --seeds 2000`` runs seeds; ``--replay SEED`` runs one again. A seed draws a :class:`Swarm` (which
features are on, how large everything is) and a flat list of events (calls and faults). A failure is shrunk to few
events and printed as a test.
"""
