"""Official checkpoints -> our networks, and back: `weights.load.load`, `weights.load.save`."""
