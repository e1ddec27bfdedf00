"""Training the miniature from nothing: draw the world, learn its autoencoder, then its text-to-image diffusion.

python -m train.miniature.data, .autoencoder, .diffusion, in this order; each resumes where it was stopped and runs
unchanged on CPU or GPU.
"""
