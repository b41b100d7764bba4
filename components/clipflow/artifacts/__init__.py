"""Nouns: what stages hand to each other. One module per artifact: its layout, reading, writing."""
