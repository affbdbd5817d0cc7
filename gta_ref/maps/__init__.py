"""How similar the attention maps of a model's heads are: comparison, clusters, a report, and texts to read."""
