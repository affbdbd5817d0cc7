"""The commands gta-ref heal and gta-ref study convert with a tiny model in place of the pretrained one."""

import functools

from typer.testing import CliRunner

from gta_ref.commands.app import app
from gta_ref.convert import texts
from gta_ref.weights import pretrained
from tests.convert import tiny

PIECES = functools.cache(texts.pieces)


def use_tiny(monkeypatch):
    """Load the tiny model, read the texts once, and leave the docstrings of large packages out."""
    found = tiny.language_model()
    monkeypatch.setattr(pretrained, "load", lambda name="smollm2": found)
    monkeypatch.setattr(pretrained, "load_tokenizer", lambda name="smollm2": found.tokenizer)
    monkeypatch.setattr(texts, "pieces", PIECES)
    monkeypatch.setattr(texts, "docstrings", lambda: "")


def run(*arguments):
    return CliRunner().invoke(app, [str(one) for one in arguments], catch_exceptions=False)


def one_line(done, status=2):
    """The line on stderr of a command that has failed."""
    assert done.exit_code == status, done.output
    assert done.stderr.startswith("gta-ref: "), done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr
