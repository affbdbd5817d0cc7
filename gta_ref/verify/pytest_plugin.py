"""A pytest plugin: the fixture ``gta_case``, the marker ``gta_suite`` and the option ``--gta-impl``.

    @pytest.mark.gta_suite("attention", capabilities={"attention", "backward"})
    def test_my_kernel(gta_case):
        gta_case.check(my_kernel(**gta_case.arrays("torch")))

A test with the fixture runs once for every case of the suite in each dtype; the marker's arguments have the same
meaning and the same defaults as those of ``gta_ref.verify.verify``. ``gta_case.check(named)`` fails with the first
wrong array, its worst element and, if it is recognised, the cause. ``gta_case.run(impl)`` runs a whole implementation;
without an argument, it runs the one named by ``--gta-impl package.module:name``. A test that raises NotImplementedError
is skipped, with its message as the reason.
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Mapping
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from gta_ref.verify.cases import Case
    from gta_ref.verify.report import CaseResult
    from gta_ref.verify.vectors import Vector

# the arguments of the marker, in their order, and their defaults
DEFAULTS: dict[str, Any] = {
    "name": None,
    "dtype": "float32",
    "capabilities": None,
    "without": (),
    "head_dim": None,
    "cases": None,
    "seed": 0,
    "products": None,
}


class GtaCase:
    """A case as the fixture ``gta_case`` passes it to a test.

    Attributes
    ----------
    name, dtype : str
    vector : Vector
        Inputs, expected arrays and budgets.
    """

    def __init__(
        self, case: Case, dtype: str, able: Collection[str], made: tuple[int, str | None], implementation: str | None
    ) -> None:
        from gta_ref.verify import vectors
        from gta_ref.verify.abilities import gradient_needs, lacking
        from gta_ref.verify.tolerance import DullCaseError

        try:
            self.vector: Vector = vectors.make(case.name, dtype, *made)  # the seed and the precision of products
        except DullCaseError as error:
            pytest.skip(str(error))
        self.name, self.dtype = case.name, dtype
        self._able = able
        self._behind = lacking(gradient_needs(case), able)  # what its gradients need besides
        self._implementation = implementation

    @property
    def settings(self) -> dict[str, Any]:
        """What the implementation is told about the case: a copy."""
        return self.vector.settings

    def arrays(self, library: str = "numpy") -> dict[str, Any]:
        """Copies of the inputs as arrays of `library`, in the case's memory layout.

        d_lse is left out unless "lse-gradient" is declared.
        """
        from gta_ref.verify.attempt import hand_out
        from gta_ref.verify.run import inputs_for

        return hand_out(inputs_for(self.vector, self._behind), library, self.vector.settings)

    def check(self, named: Mapping[str, Any], wanted: Any = ()) -> None:
        """Fail unless every given array is right and all names in `wanted` are given.

        Gradients that need a capability which is not declared are not judged.
        """
        from gta_ref.verify.exchange import to_numpy
        from gta_ref.verify.run import judge

        known = {name: to_numpy(x, name) for name, x in named.items() if name in self.vector.expected}
        if not known:
            pytest.fail(f"{self.name}: none of the given names is known; expected some of {list(self.vector.expected)}")
        skipped = self.vector.gradients if self._behind else ()
        given = {name: x for name, x in known.items() if name not in skipped}
        if not given:
            pytest.skip(f"nothing but gradients was given, and they need {', '.join(self._behind)}, not declared")
        self._report(judge(self.vector, given, [name for name in wanted if name not in skipped]))

    def run(self, impl: Any = None, library: str = "numpy") -> None:
        """Run an implementation on this case and fail unless all required arrays are right."""
        from gta_ref.verify.candidate import load
        from gta_ref.verify.run import promises, run_case

        if impl is None:
            if self._implementation is None:
                pytest.fail("gta_case.run() needs an implementation, or pytest --gta-impl package.module:name")
            impl = load(self._implementation)
        steady = "deterministic" in self._able
        promised = promises(self.vector.case, self._able)
        self._report(run_case(impl, self.vector, library, steady, self._behind, promised=promised))

    def _report(self, result: CaseResult) -> None:
        if result.status == "skip":
            pytest.skip(result.text)
        if result.status != "pass":
            cause = f"\nlikely cause: {result.cause}" if result.cause else ""
            trace = f"\n{result.traceback}" if result.traceback else ""
            pytest.fail(f"{self.name} {self.dtype}: {result.text}{cause}{trace}", pytrace=False)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --gta-impl."""
    group = parser.getgroup("gta_ref")
    group.addoption("--gta-impl", metavar="MODULE:NAME", help="the implementation that gta_case.run() runs")


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker."""
    arguments = ", ".join(f"{name}={default!r}" for name, default in DEFAULTS.items())
    config.addinivalue_line("markers", f"gta_suite({arguments}): the cases that the fixture gta_case runs through")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make one test for every case of the suite that the marker names."""
    if "gta_case" not in metafunc.fixturenames:
        return
    from gta_ref.errors import as_size
    from gta_ref.verify import abilities
    from gta_ref.verify.select import dtypes_of, names_of, select

    marker = metafunc.definition.get_closest_marker("gta_suite")
    positional, named = (marker.args, marker.kwargs) if marker else ((), {})
    given = {**DEFAULTS, **dict(zip(DEFAULTS, positional, strict=False)), **named}
    unknown = [*map(repr, positional[len(DEFAULTS) :]), *(key for key in given if key not in DEFAULTS)]
    try:
        if unknown:
            raise ValueError(f"unknown {', '.join(unknown)}; expected a suite, {', '.join(list(DEFAULTS)[1:])}")
        dtypes = dtypes_of(given["dtype"])
        able = abilities.abilities(given["capabilities"], given["without"])
        pairs, made = (
            abilities.head_dims(given["head_dim"]),
            (as_size("seed", given["seed"], at_least=0), given["products"]),
        )
        selected = select(given["name"], names_of(given["cases"], "cases"), dtypes)
    except ValueError as error:
        raise pytest.Collector.CollectError(f"gta_suite of {metafunc.definition.nodeid}: {error}") from None
    found = [(case, dtype) for case, dtype in selected if abilities.why_skip(case, dtype, able, pairs) is None]
    ids = [case.name if len(dtypes) == 1 else f"{case.name}-{dtype}" for case, dtype in found]
    metafunc.parametrize("gta_case", [(case, dtype, able, made) for case, dtype in found], ids=ids, indirect=True)


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """Skip a test of a case whose implementation raises NotImplementedError."""
    try:
        return (yield)
    except NotImplementedError as error:
        if "gta_case" not in pyfuncitem.fixturenames:
            raise
        from gta_ref.verify.candidate import describe

        pytest.skip(describe(error))


@pytest.fixture
def gta_case(request: pytest.FixtureRequest) -> GtaCase:
    """A case of the suite that the marker ``gta_suite`` names; default: "core" in float32."""
    case, dtype, able, made = request.param
    return GtaCase(case, dtype, able, made, request.config.getoption("--gta-impl"))
