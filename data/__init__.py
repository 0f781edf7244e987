"""Text to token shards, and batches in an order fixed by (seed, step). Needs numpy; knows no torch."""
