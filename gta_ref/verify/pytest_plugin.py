"""A pytest plugin: the fixture ``gta_case``, the marker ``gta_suite`` and the option ``--gta-impl``.

    @pytest.mark.gta_suite("attention", capabilities={"attention", "backward"})
    def test_my_kernel(gta_case):
        gta_case.check(my_kernel(**gta_case.arrays("torch")))

A test with the fixture runs once for every case of the suite; ``dtype`` and ``capabilities`` have the same meaning and
the same defaults as for ``gta_ref.verify.verify``. ``gta_case.check(named)`` fails with the first wrong array, its
worst element and, if it is recognised, the cause. ``gta_case.run(impl)`` runs a whole implementation; without an
argument, it runs the one named by ``--gta-impl package.module:name``.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from gta_ref.verify.vectors import Vector


class GtaCase:
    """A case as the fixture ``gta_case`` passes it to a test.

    Attributes
    ----------
    name, dtype : str
    settings : dict
        What the implementation is told about the case.
    vector : Vector
        Inputs, expected arrays and budgets.
    """

    def __init__(self, name: str, dtype: str, able: Collection[str] | None, implementation: str | None) -> None:
        from gta_ref.verify import vectors

        self.vector: Vector = vectors.make(name, dtype)
        self.name, self.dtype = name, dtype
        self.settings = self.vector.settings
        self._able = able
        self._implementation = implementation

    def arrays(self, library: str = "numpy") -> dict[str, Any]:
        """Copies of the inputs as arrays of `library`: numpy, torch, jax or cupy."""
        import numpy as np

        from gta_ref.verify.exchange import from_numpy

        return from_numpy({name: np.array(x) for name, x in self.vector.inputs.items()}, library)

    def check(self, named: Mapping[str, Any], wanted: Any = ()) -> None:
        """Fail unless every given array is right and all names in `wanted` are given."""
        from gta_ref.verify.exchange import to_numpy
        from gta_ref.verify.run import judge

        given = {name: to_numpy(x, name) for name, x in named.items() if name in self.vector.expected}
        if not given:
            pytest.fail(f"{self.name}: none of the given names is known; expected some of {list(self.vector.expected)}")
        self._report(judge(self.vector, given, wanted))

    def run(self, impl: Any = None, library: str = "numpy") -> None:
        """Run an implementation on this case and fail unless all required arrays are right."""
        from gta_ref.verify.abilities import gradient_needs, lacking
        from gta_ref.verify.run import load, run_case, to_function

        if impl is None:
            if self._implementation is None:
                pytest.fail("gta_case.run() needs an implementation, or pytest --gta-impl package.module:name")
            impl = load(self._implementation)
        behind = lacking(gradient_needs(self.vector.case), self._able)
        steady = self._able is None or "deterministic" in self._able
        self._report(run_case(to_function(impl, backward=not behind), self.vector, library, steady, behind))

    def _report(self, result: Any) -> None:
        if result.status != "pass":
            cause = f"\nlikely cause: {result.cause}" if result.cause else ""
            pytest.fail(f"{self.name} {self.dtype}: {result.text}{cause}", pytrace=False)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --gta-impl."""
    group = parser.getgroup("gta_ref")
    group.addoption("--gta-impl", metavar="MODULE:NAME", help="the implementation that gta_case.run() runs")


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker."""
    config.addinivalue_line(
        "markers",
        "gta_suite(name, dtype='float32', capabilities=None): the suite whose cases the fixture gta_case runs through",
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make one test for every case of the suite that the marker names."""
    if "gta_case" not in metafunc.fixturenames:
        return
    from gta_ref.errors import check_choice
    from gta_ref.verify import abilities, cases

    marker = metafunc.definition.get_closest_marker("gta_suite")
    defaults: dict[str, Any] = {"name": "core", "dtype": cases.DTYPE, "capabilities": None}
    positional, named = (marker.args, marker.kwargs) if marker else ((), {})
    given = {**dict(zip(defaults, positional, strict=False)), **named}
    unknown = [*map(repr, positional[len(defaults) :]), *(key for key in given if key not in defaults)]
    try:
        if unknown:
            raise ValueError(f"unknown {', '.join(unknown)}; expected a suite, dtype, capabilities")
        name, dtype, capabilities = (given.get(key, default) for key, default in defaults.items())
        check_choice("dtype", dtype, cases.DTYPES)
        able, suite = abilities.abilities(capabilities), cases.suite(name, dtype)
    except ValueError as error:
        raise pytest.Collector.CollectError(f"gta_suite of {metafunc.definition.nodeid}: {error}") from None
    found = [case.name for case in suite if not abilities.lacking(abilities.needs(case, dtype), able)]
    metafunc.parametrize("gta_case", [(one, dtype, able) for one in found], ids=found, indirect=True)


@pytest.fixture
def gta_case(request: pytest.FixtureRequest) -> GtaCase:
    """A case of the suite that the marker ``gta_suite`` names; default: "core" in float32."""
    name, dtype, able = request.param
    return GtaCase(name, dtype, able, request.config.getoption("--gta-impl"))
