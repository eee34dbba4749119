"""The guard: watches memory, recycles workers before the machine suffers, and starts again what supervisord gave up.

``policy`` decides, without a clock or a process; ``sources`` look; ``shell`` asks the broker and supervisord and does
what was decided. Nothing here imports MLX: a second process on a GPU is itself a danger.
"""
