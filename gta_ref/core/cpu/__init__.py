"""The code of engine "numba": the attention core on the CPU in tiles, without a map in memory."""
