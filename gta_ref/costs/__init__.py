"""What a model costs, derived from its structure in whole numbers: memory, operations, time by a roofline."""
