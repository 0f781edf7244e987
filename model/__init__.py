"""The decoder, its counts, its optimizer, its training loop. Needs torch; knows no Ray."""
