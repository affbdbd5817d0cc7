"""An adapter without its help: no heads are repeated and no widths padded, to see what the library does by itself."""

import os
from dataclasses import replace

from gta_ref.verify.candidate import load

bare = replace(load(os.environ["GTA_CONFORMANCE_OBJECT"]), heads="as-is", widths="as-is")
