"""The decoder, its counts, its optimizer and its training loop. Needs torch; knows no Ray, no files of ours."""
