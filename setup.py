"""Copies the course into a wheel; everything else about the package is in pyproject.toml."""

import importlib.util
import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
PACKAGE = "gta_ref/course"


def course_files():
    """The course's files, relative to the root, as gta_ref/course/contents.py lists them."""
    spec = importlib.util.spec_from_file_location("contents", ROOT / PACKAGE / "contents.py")
    contents = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(contents)
    return contents.contents(ROOT)


class BuildWithCourse(build_py):
    """Copies the course beside the package's modules; an editable install reads it in the tree."""

    def run(self):
        """Build the package, then copy."""
        super().run()
        if self.editable_mode:
            return
        target = Path(self.build_lib, PACKAGE, "files")
        shutil.rmtree(target, ignore_errors=True)  # of an earlier build
        for name in course_files():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, target / name)


setup(cmdclass={"build_py": BuildWithCourse})
