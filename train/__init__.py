"""Learning: a concept from a few pictures (DreamBooth), and the miniature from a world of its own."""
