"""Prompts that pictures of a subject are shown under while it is learnt, as the methods' papers and code have them."""

# The prompts of Textual Inversion for things (arXiv:2208.01618, supplementary material), after CLIP's for ImageNet.
TEMPLATES = (
    *(f"a photo of {what} {{}}" for what in ("a", "my", "the", "one")),
    *(f"a photo of a {look} {{}}" for look in ("clean", "dirty", "nice", "cool", "small")),
    *(f"a photo of the {look} {{}}" for look in ("cool", "clean", "nice", "small", "weird", "large")),
    *(f"a {kind} photo of {what} {{}}" for kind in ("cropped", "close-up", "good") for what in ("a", "the")),
    *(f"a {kind} photo of the {{}}" for kind in ("dark", "bright")),
    *(f"a {kind} of {what}" for kind, what in (("rendering", "a {}"), ("rendition", "a {}"), ("rendition", "the {}"))),
    "the photo of a {}",
)
# What Custom Diffusion says of a picture before its prompt, by how it is shown: as it is, small (two), or large (two).
ZOOMS = ("", "a far away ", "very small ", "zoomed in ", "close up ")
