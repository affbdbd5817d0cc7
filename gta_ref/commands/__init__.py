"""The commands of gta-ref, one a file, and what they share."""
