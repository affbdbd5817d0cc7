"""Reference implementation of Grouped-head latenT Attention (GTA, arXiv 2506.17286).

Framework-free: NumPy and Numba on the CPU, CuPy and Numba CUDA on a GPU, with every forward and
backward pass written out. Start with :mod:`gta_ref.mechanisms.gta`; the letters used for shapes are
in ``docs/notation.md``.
"""

__version__ = "0.1.0"
