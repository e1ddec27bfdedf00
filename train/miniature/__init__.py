"""Training the miniature from nothing: draw the world, learn its autoencoder, then text to image, and export them.

python -m train.miniature.data, .autoencoder, .diffusion, .export, in this order. All run unchanged on CPU or GPU, and
the first three resume where they were stopped. Afterwards .samples draws what was learnt and .judge puts numbers to it.
"""
