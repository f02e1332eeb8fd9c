"""Configuration and facts about an image, made into the files that boot it copy-on-write. Nothing here writes to an image."""
