"""What a model costs, derived from its structure in whole numbers: memory, operations, and time by a roofline model."""
