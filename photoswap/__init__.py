"""The method: the only room that knows "source" and "target".

Photoswap (Gu et al., NeurIPS 2023, arXiv:2305.18286): denoise a source and a target side by side from the same noise,
and let the target borrow the source's attention while its layout is decided.
"""
