"""Ray clusters, and the training API that runs on them."""
