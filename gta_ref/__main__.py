"""``python -m gta_ref`` is the command ``gta-ref``."""

from gta_ref.cli import main

main()
