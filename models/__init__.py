"""The networks of Stable Diffusion, written out: tensors in, tensors out.

Latent diffusion (arXiv:2112.10752) is three networks: a convolutional autoencoder (`vae`), the CLIP text transformer
(`text_encoder`, arXiv:2103.00020) and a U-Net that predicts noise (`unet`, arXiv:2006.11239). Photoswap
(arXiv:2305.18286) edits the attention inside the U-Net, so `attention` is explicit and `hooks` says where it can be
watched or replaced. Nothing in this package samples, trains or reads weights.
"""
