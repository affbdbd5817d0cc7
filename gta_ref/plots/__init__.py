"""The figures, a module an idea; a function returns a matplotlib Figure and neither shows nor saves it."""
