"""The sweep: what to train, on what, when to stop, what it may cost."""
