"""One mechanism a file, all with the same functions.

``Config``, ``init``, ``forward``, ``backward``, ``decode`` and ``structure``; see ``docs/design.md``.
"""
