"""Wrong arguments of the public functions: every parameter of each is given values of every kind, and either it refuses
them with one line of its own, or they are of a kind that its documentation allows."""

import copy
import inspect
import re

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gta_ref.core import EngineError
from gta_ref.mechanisms import NAMES
from tests.arguments.costs import cost_functions
from tests.arguments.kinds import VALUES, allowed, changed
from tests.arguments.layers import CONFIGS, core_functions, mechanism_functions, model_functions, use_functions

EXAMPLES = 160  # per function of the tables
LEAST_CALLS = 10_000
LONGEST = 1200  # characters of a message: two lists of a model's long names are the longest

FUNCTIONS = {key: pair for name in NAMES for key, pair in mechanism_functions(name).items()}
FUNCTIONS |= model_functions() | use_functions() | core_functions() | cost_functions()
FORM = re.compile(r"expected|must|missing|unknown|cannot run here|too small|leaves nothing| takes | needs | holds ")


def call(function, arguments):
    """The message with which a call refuses its arguments, or None; any other error of it is raised."""
    try:
        FUNCTIONS[function][0](**arguments)
    except ValueError as error:
        if type(error) not in (ValueError, EngineError):
            raise TypeError(f"{error!r} is neither a plain ValueError nor an EngineError") from error
        return str(error)
    return None


@pytest.mark.parametrize("function", FUNCTIONS)
def test_right_arguments_are_taken(function):
    if function == "gta.fold_residual":
        assert CONFIGS["gta"].decoder_residual
    assert call(function, FUNCTIONS[function][1]()) is None


@pytest.mark.parametrize("function", FUNCTIONS)
def test_wrong_arguments_are_refused_in_one_line(function):
    make = FUNCTIONS[function][1]
    calls = 0

    @settings(
        max_examples=EXAMPLES,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def run(data):
        nonlocal calls
        calls += 1
        arguments = make()
        parameter = data.draw(st.sampled_from(sorted(arguments)))
        good = arguments[parameter]
        value = changed(data.draw, good) if data.draw(st.booleans()) else data.draw(VALUES)
        message = call(function, {**arguments, parameter: copy.copy(value) if isinstance(value, dict) else value})
        if message is None:
            assert allowed(function, parameter, value, good), f"{function} took {parameter}={value!r:.80}"
        else:
            assert FORM.search(message), message
            assert "\n" not in message, message
            assert len(message) <= LONGEST, message

    with np.errstate(all="ignore"):
        run()
    assert calls >= EXAMPLES


def test_the_number_of_calls():
    assert len(FUNCTIONS) * EXAMPLES >= LEAST_CALLS


@pytest.mark.parametrize(
    "function",
    [
        name
        for name in FUNCTIONS
        if not name.startswith(("model.layer", "Mask, used", "generate.greedy", "small.config"))
    ],
)
def test_every_parameter_is_tried(function):
    called, make = FUNCTIONS[function]
    named = {
        name for name, p in inspect.signature(called).parameters.items() if p.kind is not inspect.Parameter.VAR_KEYWORD
    }
    given = set(make())
    assert named <= given, f"{named - given} are never wrong"
