"""Hours of mixed load on a whole mesh under supervisord: nothing is lost, nothing is wrong, nothing grows."""
