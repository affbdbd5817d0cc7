"""The commands of gta-ref, one per file, and the helpers that they share."""
