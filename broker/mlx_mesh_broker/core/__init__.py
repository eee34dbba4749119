"""The broker's pure core: events in, actions out, time passed in. No socket, clock, thread or random number."""
