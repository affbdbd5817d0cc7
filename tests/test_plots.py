"""What figures share."""

from gta_ref import plots


def test_labels_have_only_what_the_font_can_draw():
    assert plots.drawable("aβ ↵數x") == "aβ ↵?x"
