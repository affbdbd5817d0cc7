"""A decoder language model around any mechanism."""
