"""The benchmarks of ``gta-ref bench``. Speed is measured here; no test asserts it."""
