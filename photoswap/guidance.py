"""The guidance that suits a model, where it is another than the published models'."""

# trained on less, they overshoot at the scales of the published models
GUIDANCE_OF = {"miniature": 3.0, "miniature-paint": 2.0}
