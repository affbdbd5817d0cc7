"""The course as files: where they are, and ``gta-ref course``, which writes them into a folder.

In a clone the notebooks, exercises and pages are read where they are. A wheel holds a copy of them in this package's
folder ``files``, which ``setup.py`` makes when the wheel is built, so that git holds each of them once.
"""

from gta_ref.course.place import path

__all__ = ["path"]
