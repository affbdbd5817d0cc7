"""The figures, one module per topic. Each function returns a matplotlib Figure; it neither shows nor saves it."""
