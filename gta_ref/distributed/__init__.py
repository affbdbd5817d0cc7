"""Several processes, by MPI: attention over a sequence that is spread over them, decoding, and training.

The processes of a run are called ranks. Each has a part of every sequence, or of every cache, or of every batch.
"""
