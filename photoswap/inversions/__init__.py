"""How a source becomes the noise a swap starts from, and the file that keeps it for many swaps."""
