"""The player of a sequence of figures: every control has a name, every picture a text, and nothing comes from outside."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

from gta_ref.plots.player import Frame, player

NODE = shutil.which("node")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Tags(HTMLParser):
    """The tags of a page with their attributes."""

    def __init__(self, html):
        super().__init__()
        self.found = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def named(self, *names):
        return [attributes for tag, attributes in self.found if tag in names]


def frames(n=3):
    return [Frame(lambda figure, i=i: figure.text(0, 0, str(i)), f'picture {i} of "{n}" <all>') for i in range(n)]


def page(**options):
    return player(frames(), (1, 1), **{"label": "Three & pictures", "dpi": 20, **options})


def test_every_control_has_a_name():
    tags = Tags(page(slider="Gate"))
    names = [control.get("aria-label") for control in tags.named("button", "input")]
    assert names == ["Gate", "First frame", "Previous frame", "Play", "Next frame", "Last frame"]
    (group,) = [one for one in tags.named("div") if one.get("role") == "group"]
    assert group["aria-label"] == "Three & pictures"


def test_every_picture_has_its_text_and_one_is_shown():
    tags = Tags(page(start=1))
    pictures = tags.named("img")
    assert [picture["alt"] for picture in pictures] == [frame.text for frame in frames()]
    assert ["hidden" in picture for picture in pictures] == [True, False, True]
    (slider,) = tags.named("input")
    assert (slider["min"], slider["max"], slider["value"]) == ("0", "2", "1")
    assert slider["aria-valuetext"] == frames()[1].text


def test_two_players_on_one_page_do_not_share_an_id():
    ids = [next(one["id"] for one in Tags(page()).named("div") if "id" in one) for _ in range(2)]
    assert len(set(ids)) == 2


def test_nothing_comes_from_outside():
    assert re.search(r"(https?:)?//\w|@import|<link", re.sub(r'src="data:image/png;base64,[^"]*"', "", page())) is None


def test_no_frames_are_refused():
    with pytest.raises(ValueError, match="frames is empty"):
        player([], (1, 1), label="nothing")


@pytest.mark.skipif(NODE is None or CHROMIUM is None, reason="node or chromium is not installed, which play the page")
def test_the_controls_show_the_pictures(tmp_path):
    file = tmp_path / "page.html"
    file.write_text(f"<!doctype html><meta charset=utf-8>{page(seconds=0.4)}", encoding="utf-8")
    command = [NODE, str(Path(__file__).with_name("play.js")), CHROMIUM, file.as_uri()]
    seen = json.loads(subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout)
    first, second, _ = (frame.text for frame in frames())
    assert seen["start"] == [[0], first]
    assert seen["arrow"] == [[1], second]
    assert seen["buttons"] == [[2], [2], [1], [0], [0], [2]]  # next, next, previous, first, previous, last
    assert seen["playing"] == [[0], "Pause"]
    assert seen["paused"] == [[0], "Play"]
    assert seen["ended"] == [[2], "Play"]
    assert (seen["faults"], seen["requests"]) == ([], [])
