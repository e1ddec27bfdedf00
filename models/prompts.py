"""How prompts are worded."""

import re

# Words that are spoken with a vowel first, near enough: not by "u" and "eu" as in unicorn, but by the mute h of hour.
VOWEL = re.compile(r"(?!uni|use|eu|one\b|ewe)[aeiou]|hour|heir|hono|hones", re.IGNORECASE)


def article(words: str) -> str:
    """The indefinite article before these words: "an" owl, "a" sks owl, "a" unicorn, "an" hour."""
    return "an" if VOWEL.match(words.strip()) else "a"


def a_photo_of(thing: str) -> str:
    """The plainest prompt for a thing."""
    return f"a photo of {article(thing)} {thing}"
