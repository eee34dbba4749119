"""What supervisord is taught beyond its own: restarts that nobody waits for, and groups that grow and shrink.

Loaded into supervisord by ``mlx_mesh.cli.supervisord_plugin``. supervisord runs one thread: whatever is called here
returns at once, and what has to wait for a process is done when supervisord finds that it has ended.
"""
