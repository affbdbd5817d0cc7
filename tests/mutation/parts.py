"""What is mutated, what has to kill the mutants, and what is left out.

Left out is what changes no result of a right call: speed, and the checks of arguments, for which tests/arguments calls
every public function with thousands of wrong arguments.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

BOUNDS = "tests/core/test_edges_of_bounds.py"
CORE = ("tests/core/test_attention.py", "tests/core/test_mask.py", BOUNDS, "-k", "not numba")
OPS = ("tests/ops", "tests/weights/test_fp8.py")
INIT = "tests/mechanisms/test_init.py"
GTA = (INIT, "tests/mechanisms/test_gta.py", "tests/mechanisms/test_gta_config.py", "tests/mechanisms/test_gta_gradients.py",
       "tests/mechanisms/test_official.py")  # fmt: skip
FAMILY = (INIT, "tests/mechanisms/test_family.py", "tests/mechanisms/test_family_configs.py",
          "tests/mechanisms/test_family_gradients.py", "tests/mechanisms/test_gha_pairing.py")  # fmt: skip
MLA = (INIT, "tests/mechanisms/test_mla.py", *FAMILY[1:4])
CONFIGS = tuple(f"tests/mechanisms/test_{name}.py" for name in ("defaults", "gta_config", "family_configs"))
COSTS = tuple(f"tests/costs/test_{name}.py" for name in ("formulas", "counted", "memory"))
CPU = (
    "tests/core/test_attention.py", BOUNDS, "tests/core/cpu/test_engine.py", "tests/core/cpu/test_threads.py",
    "tests/core/cpu/test_bounds.py",
)  # fmt: skip
BF16, WGMMA, LADDER, EDGES = (
    f"tests/gta_cuda/test_{name}.py" for name in ("backward_bf16", "wgmma", "ladder", "simulated_edges")
)
UNITS = (
    "tests/core/cpu/test_matrix_units.py",
    "tests/core/cpu/test_bounds.py::test_kernels_stay_within_their_arrays[bfloat16-emulated]",
)


def simulated(*names: str, file: str = "") -> tuple[str, ...]:
    """Tests of tests/gta_cuda/test_simulated{file}.py."""
    return tuple(f"tests/gta_cuda/test_simulated{file}.py::test_{name}" for name in names)


TENSOR_CORES = simulated(
    "forward_on_tensor_cores",
    "tiles_of_the_tensor_cores",
    "the_base_of_a_row_follows_its_maximum",
    file="_tensor_cores",
)
DECODE_BF16 = simulated("decode_on_tensor_cores", file="_tensor_cores")
ENGINE = simulated("engine", file="_engine")
FIRST_STEPS = f"{LADDER}::test_first_steps_of_the_ladder"
LAUNCHES = (
    *simulated("engine", "empty", "values_without_columns", file="_engine"),
    *simulated("forward", "backward", "decode", "merge"),
)

# Tests of the quick part that take seconds without reaching anything that the others do not reach
SLOW = (
    "tests/mechanisms/test_gta_precision.py::test_float32_error",
    "tests/mechanisms/test_gta_gradients.py::test_a_direction_at_published_sizes",
    "tests/mechanisms/test_gta_gradients.py::test_one_wrong_element_at_published_sizes",
)


@dataclass(frozen=True)
class Part:
    """Files that are mutated, and what runs on each mutant, in this order, until something fails.

    Attributes
    ----------
    engine, dtypes
        The engine that the verification kit judges, and in which dtypes; engine "" means that the kit cannot run it.
    tests
        By pattern of the file, the first that fits: the arguments of pytest.
    seconds
        The processor time that the killers may take; a mutant that takes more counts as killed.
    environment
        Environment variables of the process in which the mutants run.
    """

    engine: str
    dtypes: tuple[str, ...]
    tests: dict[str, tuple[str, ...]]
    seconds: int
    environment: dict[str, str]

    def tests_of(self, file: str) -> tuple[str, ...] | None:
        """The tests of a file; None if the file is not in this part."""
        return next((tests for pattern, tests in self.tests.items() if fnmatch(file, pattern)), None)


KIT = ("float64", "float32")
SIMULATOR = {"NUMBA_ENABLE_CUDASIM": "1"}
PARTS = {
    "reference core": Part("reference", KIT, {f"gta_ref/core/{name}.py": CORE for name in ("engines", "mask", "reference")}, 120, {}),
    "operations": Part(
        "reference", KIT,
        {"gta_ref/ops/products.py": ("tests/verify/test_tolerance.py",), "gta_ref/ops/*.py": OPS}, 120, {},
    ),
    "mechanisms": Part(
        "reference", KIT,
        {"gta_ref/mechanisms/gta.py": GTA, "gta_ref/mechanisms/gta_definition.py": GTA,
         "gta_ref/mechanisms/gta_config.py": (*CONFIGS, *COSTS), "gta_ref/mechanisms/mla.py": MLA,
         "gta_ref/mechanisms/mla_ways.py": MLA, "gta_ref/mechanisms/mla_config.py": (*CONFIGS, *COSTS),
         "gta_ref/mechanisms/structure.py": COSTS, "gta_ref/mechanisms/*_config.py": (*CONFIGS, *COSTS),
         "gta_ref/mechanisms/*.py": FAMILY},
        240, {},
    ),
    "CPU matrix units, emulated": Part(
        "", (), {f"gta_ref/core/cpu/{name}.py": UNITS for name in ("forward_bf16", "matrix_units", "pairs")}, 250, {}
    ),
    "CPU kernels": Part(
        "numba", KIT,
        {"gta_ref/core/cpu/compiling.py": (), "gta_ref/core/cpu/llvm.py": ("tests/lm/test_compiled.py",),
         "gta_ref/core/cpu/*.py": CPU},
        400, {},
    ),
    "CUDA kernels, simulated": Part(
        "", (),
        {"cuda/forward.py": (*simulated("forward"), *ENGINE, EDGES), "cuda/backward.py": (*simulated("backward"), *ENGINE),
         "cuda/tiles.py": (EDGES, *simulated("forward", "backward")), "cuda/backward_parts.py": (*simulated("backward"), BF16),
         "cuda/decode.py": simulated("decode"), "cuda/decode_bf16.py": DECODE_BF16,
         "cuda/merge.py": simulated("merge", "decode"), "cuda/forward_bf16.py": (EDGES, *TENSOR_CORES),
         "cuda/groups_bf16.py": TENSOR_CORES, "cuda/tiles_bf16.py": (*TENSOR_CORES, *DECODE_BF16),
         "cuda/backward_bf16.py": (BF16,), "cuda/backward_bf16_queries.py": (BF16,), "cuda/backward_tiles.py": (BF16,),
         "cuda/forward_wgmma.py": (WGMMA,), "cuda/tiles_wgmma.py": (WGMMA,), "cuda/arrays.py": (*simulated("what_counts_as_wide", "bounds_fit_into_32_bits", file="_engine"), *LAUNCHES),
         "cuda/step[123]_*.py": (FIRST_STEPS, EDGES), "cuda/step5_*.py": (LADDER,),
         "cuda/decode_step*.py": (LADDER,), "cuda/ladder_steps.py": (LADDER,), "cuda/launch_forward.py": (*LAUNCHES, WGMMA),
         "cuda/launch_backward.py": (*LAUNCHES, BF16), "cuda/launch_backward_bf16.py": (*LAUNCHES, BF16),
         "cuda/launch_decode.py": (*LAUNCHES, *DECODE_BF16)},
        250, SIMULATOR,
    ),
}  # fmt: skip

# file, function or variable, why it is left out
LEFT_OUT = (
    *(
        ("gta_ref/*.py", name, "checks arguments")
        for name in (
            "check_*",
            "_check*",
            "*__post_init__",
            "as_*",
            "_refuse",
            "_fits",
            "is_float",
            "only_with*",
            "_sizes",
        )
    ),
    ("gta_ref/core/mask.py", "[A-Z]*[A-Z]", "limits of arguments"),
    ("gta_ref/mechanisms/published.py", "*", "sizes of published models"),
    *(("gta_ref/mechanisms/*.py", name, "sizes of models") for name in ("_PUBLISHED", "small_sizes", "*.preset")),
    *(
        ("gta_ref/core/engines.py", name, "whether an engine can run here")
        for name in ("why_not", "load", "_module", "_is_unfinished", "_compiles_nothing", "_takes")
    ),
    ("gta_ref/core/cpu/engine.py", "check", "checks arguments"),
    ("gta_ref/core/engines.py", "LEAST_*", "from which size on 'auto' takes the engine 'numba'"),
    ("gta_ref/core/engines.py", "choose", "which engine 'auto' takes"),
    ("gta_ref/core/cpu/compiling.py", "*", "where compiled kernels are kept, and a notice"),
    ("gta_ref/core/cpu/dots.py", "prefetch*", "a hint for the cache"),
    ("gta_ref/core/cpu/engine.py", "ALONE", "from how much work on a second thread is used"),
    ("gta_ref/core/cpu/engine.py", "KEPT", "how many prepared calls are remembered"),
    ("gta_ref/core/cpu/engine.py", "_workers", "how many threads are used"),
    ("gta_ref/core/cpu/lanes.py", "MANY_REGISTERS", "the size of a register tile"),
    ("gta_ref/core/cpu/lanes.py", "[A-Z]*[A-Z]", "the sizes of vectors and tiles"),
    ("gta_ref/core/cpu/lanes.py", "_has", "which instructions the machine has"),
    ("gta_ref/core/cpu/matrix_units.py", "granted", "whether the machine has the unit"),
    ("gta_ref/core/cpu/plan.py", "[A-Z]*[A-Z]", "the sizes of tiles and chunks"),
    *(("gta_ref/core/cpu/*.py", name, "the sizes of tiles") for name in ("KEYS", "GROUP", "BLOCK", "(SUM_ROWS*")),
    ("gta_ref/core/cpu/plan.py", "costs", "how evenly the threads are loaded"),
    ("gta_ref/core/cpu/prepared.py", "SHARED_COPIES", "how many threads have sums of their own"),
    ("gta_ref/core/cpu/prepared.py", "Records*", "whether a record is used again"),
    ("gta_ref/core/cpu/softmax.py", "SLACK", "how often the sums are rescaled"),
    ("cuda/*.py", "*.of", "the sizes of tiles on a GPU"),
    ("cuda/launch_*.py", "*_kernel", "types of arguments, which only a compiler reads"),
    ("cuda/*.py", "([A-Z]*", "constants of cost"),
    ("cuda/*.py", "[A-Z]*", "the sizes of tiles, limits of a GPU and constants of cost"),
    ("cuda/arrays.py", "_address", "needs CuPy"),
    ("cuda/arrays.py", "_copied", "needs CuPy"),
    ("cuda/arrays.py", "_size", "needs a GPU"),
    ("cuda/arrays.py", "current_stream", "needs CuPy"),
    ("cuda/arrays.py", "multiprocessors", "needs a GPU"),
    ("cuda/arrays.py", "resident", "needs a GPU"),
    ("cuda/decode.py", "_early", "how many loads are under way at once"),
    ("cuda/decode*.py", "most_*", "the size of a block"),
    ("cuda/decode_bf16.py", "rows_per_block", "the size of a block"),
    ("cuda/launch_backward.py", "choose_parts", "how many blocks share a tile"),
    ("cuda/launch_decode.py", "balanced", "how rows are shared by blocks"),
    ("cuda/launch_decode.py", "choose_splits", "how many blocks share the keys"),
    ("cuda/launch_decode.py", "prepared", "which calls are remembered"),
    ("cuda/launch_decode.py", "remember", "which calls are remembered"),
    ("cuda/launch_decode.py", "signature", "needs CuPy"),
    ("cuda/launch_forward.py", "_capability", "needs a GPU"),
    ("cuda/launch_forward.py", "has_wgmma", "needs a GPU"),
    ("cuda/launch_forward.py", "takes_wgmma", "needs a GPU"),
    ("cuda/merge.py", "cut", "how threads share a row"),
)


def left_out(file: str, function: str) -> str | None:
    """Why a function or variable is not mutated; None if it is."""
    return next((why for f, name, why in LEFT_OUT if fnmatch(file, f) and fnmatch(function, name)), None)


def files(root: Path) -> Iterator[tuple[str, str]]:
    """The part and path of each file that is mutated, in the order of the parts; a file is in the first that fits."""
    paths = [str(p.relative_to(root)) for room in ("gta_ref", "cuda") for p in sorted((root / room).rglob("*.py"))]
    for name, part in PARTS.items():
        mine = [path for path in paths if part.tests_of(path) is not None]
        yield from ((name, path) for path in mine)
        paths = [path for path in paths if path not in mine]
