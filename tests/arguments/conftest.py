"""Each mechanism with what its functions take."""

import pytest

from gta_ref.mechanisms import NAMES, load
from tests.arguments.layers import CONFIGS, FORWARD, PARAMS, new_cache


@pytest.fixture(params=NAMES)
def case(request):
    name = request.param
    return load(name), CONFIGS[name], PARAMS[name], FORWARD[name][1], new_cache(name)
