"""The example programs that need nothing besides gta_ref run, and do what they say."""

import re
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


def test_train_gta(tmp_path):
    """Eight steps take the loss well below that of a guess, and the sample begins with its prompt."""
    command = [sys.executable, EXAMPLES / "train_gta.py", "8"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    first, last = (float(loss) for loss in re.findall(r"^step +\d+  loss (\S+)", done.stdout, re.MULTILINE))
    held_out = float(re.search(r"held-out loss (\S+)", done.stdout)[1])
    assert first > 5
    assert last < first - 1
    assert abs(held_out - last) < 1
    assert "\ndef " in done.stdout
    assert not list(tmp_path.iterdir())
