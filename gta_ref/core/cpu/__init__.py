"""The code of engine "numba", which computes the attention core on the CPU in tiles, without a whole map in memory."""
