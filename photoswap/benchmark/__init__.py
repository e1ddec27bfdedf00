"""The benchmark: swaps of the drawn world, whose right answers are known, and how near every method comes to them."""
