"""Text to token shards, and batches in an order fixed by (seed, step). Knows no torch."""
