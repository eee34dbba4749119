"""Real faults, mixed: a mesh of real processes is hurt for a time while clients call it and check every answer.

``python -m tests.faults.mixes [--mix NAME ...] [--runs 8] [--seconds 60] [--jobs 2] [--out FILE]``

``questions`` says what is asked and what the answer must be, ``load`` is the program that asks, ``stage`` and
``supervised`` are the meshes, ``processes``, ``network`` and ``surroundings`` hurt them, ``catalogue`` says which mix
may cost a caller what, and why.
"""
