"""The figures of the paper (Photoswap, arXiv:2305.18286), drawn for any picture: what attention sees, and lambdas."""
