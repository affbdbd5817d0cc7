"""Checks of implementations and of gradients."""
