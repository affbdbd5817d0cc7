"""The cases: what each one computes, and which abilities an implementation needs for it.

A case has a name, a seed, tags and one of three levels: "attention" is the attention core alone (q, k, v, mask →
z, lse: the part that kernel authors write), "layer" is one attention layer of any mechanism, and "lm" is a tiny
language model. A case describes in plain JSON what is to be computed; :mod:`gta_ref.verify.truth` computes it. The
gradients of a case need more abilities than its forward, so that an implementation without a backward still has its
forward checked.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from gta_ref import mechanisms
from gta_ref.errors import check_choice

LEVELS = ("attention", "layer", "lm")
DTYPES = ("float64", "float32", "bfloat16", "float16")
DTYPE = "float32"  # the default
SUITES = ("core", "attention", "layer", "lm", "large", "all")


@dataclass(frozen=True)
class Case:
    """The description of one computation.

    Attributes
    ----------
    name : str
    level : {"attention", "layer", "lm"}
    tags : tuple of str
        Some of core, edge, decode, padding, gradient, low-precision, large.
    seed : int
        Seed of the random inputs.
    settings : mapping
        Plain JSON. At the level "attention": sizes, mask, scale, logits (a factor on q), poison (NaN in unused slots)
        and dlse (whether lse has a cotangent). At the level "layer": mechanism, config, batch, length, mask and, for
        decoding, chunks (the number of tokens in each step). At the level "lm": the same and model.
    dtypes : tuple of str
        The dtypes that are precise enough for the case to detect a wrong result.
    """

    name: str
    level: str
    tags: tuple[str, ...]
    seed: int
    settings: Mapping[str, Any]
    dtypes: tuple[str, ...] = DTYPES

    def needs(self, dtype: str) -> tuple[str, ...]:
        """Abilities that an implementation needs for the forward of this case in this dtype."""
        found = [self.level, dtype]
        if self.level != "attention":
            found.append(self.settings["mechanism"])
        found += [tag for tag in ("decode", "padding") if tag in self.tags]
        return tuple(found)

    @property
    def gradient_needs(self) -> tuple[str, ...]:
        """Further abilities that the gradients of this case need; empty if it has none."""
        if "gradient" not in self.tags:
            return ()
        return ("backward", "lse") if self.settings.get("dlse") else ("backward",)


MECHANISMS = mechanisms.NAMES
ABILITIES = (*LEVELS, "backward", "decode", "padding", "lse", *DTYPES, *MECHANISMS)
OF_A_RUN = ("deterministic",)  # abilities that the run as a whole needs, but no single case


def abilities(capabilities: Collection[str] | None) -> frozenset[str] | None:
    """Check the declared capabilities of an implementation.

    If no level, no dtype or no mechanism is declared, all levels, dtypes or mechanisms count as declared.

    Returns
    -------
    able : frozenset of str or None
        None if nothing was declared, which means every ability.
    """
    if capabilities is None:
        return None
    declared = set(capabilities)
    for one in declared:
        check_choice("capabilities", one, (*ABILITIES, *OF_A_RUN))
    for kind in (LEVELS, DTYPES, MECHANISMS):
        if not declared & set(kind):
            declared |= set(kind)
    return frozenset(declared)


def lacking(needs: Collection[str], able: Collection[str] | None) -> tuple[str, ...]:
    """The needs that are not among the declared abilities."""
    return () if able is None else tuple(need for need in needs if need not in able)


def suite(name: str = "core", dtype: str | None = None) -> list[Case]:
    """The cases of a suite: "core", one level of it, "large", or "all"; with `dtype`, only those made for it."""
    check_choice("suite", name, SUITES)
    if dtype is not None:
        check_choice("dtype", dtype, DTYPES)
    return [
        case
        for case in CASES
        if (dtype is None or dtype in case.dtypes)
        and (name == "all" or (name in case.tags) or ("core" in case.tags and case.level == name))
    ]


def find(name: str) -> Case:
    """The case of this name."""
    for case in CASES:
        if case.name == name:
            return case
    raise ValueError(f"case={name!r} is unknown; gta-ref vectors list names them")


def _attention(
    name: str, sizes: tuple[int, ...], *tags: str, dtypes: tuple[str, ...] = DTYPES, **settings: Any
) -> Case:
    keys = ("B", "n_q", "n_k", "n_v", "N_q", "N_k", "d_k", "d_v")
    settings = {"sizes": dict(zip(keys, sizes, strict=True)), "mask": {}, **settings}
    return Case(f"attention/{name}", "attention", ("core", "gradient", *tags), _seed(name), settings, dtypes)


GTA = {"hidden_size": 48, "n_heads": 8, "head_dim": 8, "n_q": 4, "n_k": 1, "n_c": 1, "latent_dim": 16}
GROUPED = {**GTA, "n_k": 2, "n_c": 4, "latent_dim": 8}


def _layer(
    name: str,
    mechanism: str,
    config: Mapping[str, Any],
    *tags: str,
    batch: int = 2,
    length: int = 11,
    dtypes: tuple[str, ...] = DTYPES,
    **settings: Any,
) -> Case:
    decode = "chunks" in settings
    kind = ("core", "decode") if decode else ("core", "gradient")
    settings = {
        "mechanism": mechanism,
        "config": dict(config),
        "batch": batch,
        "length": length,
        "mask": {},
        **settings,
    }
    return Case(f"layer/{name}", "layer", (*kind, *tags), _seed(name), settings, dtypes)


def _lm(name: str, mechanism: str, config: Mapping[str, Any], **model: Any) -> Case:
    sizes = {"vocab_size": 31, "n_layers": 2, "intermediate_size": 40, **model}
    settings = {"mechanism": mechanism, "config": dict(config), "model": sizes, "batch": 2, "length": 9}
    return Case(f"lm/{name}", "lm", ("core", "gradient"), _seed(name), settings)


def _seed(name: str) -> int:
    """A seed that depends on the name alone, so that a new case changes no other."""
    seed = 0
    for letter in name.encode():
        seed = (seed * 257 + letter) % 2**31
    return seed


# The dtypes of cases in which fewer bits could not tell a gradient from a senseless one (tolerance.check_sharp).
WIDE = ("float64", "float32")
NO_BFLOAT16 = ("float64", "float32", "float16")

CASES: tuple[Case, ...] = (
    # B, n_q, n_k, n_v, N_q, N_k, d_k, d_v
    _attention("plain", (2, 4, 1, 1, 33, 33, 16, 32)),
    _attention("gta-1b-heads", (1, 5, 1, 1, 65, 65, 64, 128)),
    _attention("gqa-heads", (1, 8, 2, 2, 40, 40, 32, 32)),
    _attention("heads-differ", (2, 6, 2, 3, 17, 17, 8, 24)),
    _attention("a-head-each", (1, 4, 4, 4, 20, 20, 16, 16)),
    _attention("value-narrower", (1, 4, 2, 1, 20, 20, 32, 8), dtypes=NO_BFLOAT16),
    *(_attention(f"length-{n}", (1, 3, 1, 1, n, n, 16, 24), "edge") for n in (1, 63, 64, 65, 127, 128, 129)),
    _attention("length-2", (1, 3, 1, 1, 2, 2, 16, 24), "edge", dtypes=NO_BFLOAT16),
    _attention("no-token", (1, 3, 1, 1, 0, 0, 16, 24), "edge"),
    _attention("no-key", (1, 3, 1, 1, 4, 0, 16, 24), "edge"),
    *(_attention(f"width-{d}", (1, 3, 1, 1, 37, 37, d, d), "edge") for d in (60, 72, 80)),
    _attention("not-causal", (2, 4, 2, 1, 19, 30, 16, 16), mask={"causal": False}),
    _attention("more-queries-than-keys", (1, 4, 1, 1, 30, 12, 16, 16), "edge"),
    _attention("chunk", (2, 4, 1, 1, 12, 50, 16, 32), mask={"q_start": 25}),
    _attention("one-query", (3, 5, 1, 1, 1, 70, 16, 32), "decode"),
    _attention("left-padded", (3, 4, 1, 1, 24, 24, 16, 32), "padding", mask={"k_start": [0, 5, 17]}),
    _attention("right-padded", (3, 4, 2, 1, 24, 24, 16, 32), "padding", mask={"k_stop": [24, 9, 1]}),
    _attention("both-padded", (3, 4, 1, 2, 24, 24, 16, 16), "padding", mask={"k_start": [2, 0, 7], "k_stop": [20, 3, 24]}),
    _attention("empty-sequence", (3, 4, 1, 1, 16, 16, 16, 32), "padding", "edge", mask={"k_stop": [16, 0, 7]}, dtypes=NO_BFLOAT16),
    _attention("blind-rows", (2, 4, 1, 1, 12, 20, 16, 32), "padding", "edge", mask={"q_start": [-5, 3], "k_start": [0, 6]}),
    _attention(
        "nan-in-unused-slots", (3, 4, 2, 1, 18, 18, 16, 16), "padding", "edge",
        mask={"k_start": [0, 4, 0], "k_stop": [18, 18, 6]}, poison=True,
    ),
    _attention("decode-padded", (3, 4, 1, 1, 1, 40, 16, 32), "decode", "padding", mask={"k_start": [0, 11, 39]}, poison=True, dtypes=NO_BFLOAT16),
    _attention("huge-logits", (1, 3, 1, 1, 24, 24, 16, 24), "edge", logits=100.0, dtypes=WIDE),
    _attention("other-scale", (2, 4, 1, 1, 21, 21, 16, 32), scale=0.4),
    _attention("through-lse", (2, 4, 2, 1, 21, 21, 16, 16), dlse=True),
    _layer("gta-paper", "gta", GTA, dtypes=NO_BFLOAT16),
    _layer("gta-released", "gta", {**GTA, "decoder_residual": True, "latent_dim": 8}),
    _layer("gta-grouped", "gta", GROUPED),
    *(_layer(f"gta-gate-{gate}", "gta", {**GTA, "gate": gate}) for gate in ("silu", "none")),
    _layer("gta-gate-relu2", "gta", {**GTA, "gate": "relu2"}, dtypes=NO_BFLOAT16),
    _layer("gta-no-bias", "gta", {**GTA, "bias": False}),
    _layer("gta-interleaved", "gta", {**GTA, "rope_pairing": "interleaved"}),
    _layer("gta-one-token", "gta", GTA, "edge", length=1),
    _layer("gta-left-padded", "gta", GTA, "padding", batch=3, mask={"k_start": [0, 3, 8]}, dtypes=NO_BFLOAT16),
    _layer("gta-right-padded", "gta", GROUPED, "padding", batch=3, mask={"k_stop": [11, 4, 0]}),
    _layer("gta-decode", "gta", GTA, chunks=[1] * 11),
    _layer("gta-decode-released", "gta", {**GROUPED, "decoder_residual": True}, chunks=[5, 1, 3, 1, 1]),
    _layer("gta-decode-padded", "gta", GTA, "padding", batch=3, mask={"k_start": [0, 3, 8]}, chunks=[4, *[1] * 7]),
    _layer("mha", "mha", {"hidden_size": 48, "n_heads": 6, "head_dim": 8}),
    _layer("gqa", "gqa", {"hidden_size": 48, "n_heads": 6, "head_dim": 8, "n_k": 2}),
    _layer("gqa-decode", "gqa", {"hidden_size": 48, "n_heads": 6, "head_dim": 8, "n_k": 2}, chunks=[5, 1, 3, 1, 1]),
    _layer("gva", "gva", {"hidden_size": 48, "n_heads": 6, "head_dim": 8, "n_q": 3}),
    _layer("gha", "gha", {"hidden_size": 48, "n_heads": 12, "head_dim": 8, "n_q": 4, "n_k": 2, "n_v": 6}),
    _layer(
        "mla", "mla",
        {"hidden_size": 48, "n_heads": 4, "latent_dim": 20, "nope_dim": 8, "rope_dim": 4, "value_dim": 12},
        dtypes=NO_BFLOAT16,
    ),
    _layer(
        "mla-decode", "mla",
        {"hidden_size": 48, "n_heads": 4, "latent_dim": 20, "nope_dim": 8, "rope_dim": 4, "value_dim": 12,
         "query_latent_dim": 24},
        chunks=[5, 1, 3, 1, 1],
    ),
    _lm("gta", "gta", {**GTA, "decoder_residual": True}),
    _lm("gqa-untied", "gqa", {"hidden_size": 48, "n_heads": 6, "head_dim": 8, "n_k": 2}, tied=False),
    Case(
        "layer/gta-1b", "layer", ("large", "gradient"), 1,
        {"mechanism": "gta", "batch": 1, "length": 256, "mask": {},
         "config": {"hidden_size": 1280, "n_heads": 20, "head_dim": 64, "n_q": 5, "n_k": 1, "n_c": 1,
                    "latent_dim": 128, "decoder_residual": True}},
    ),
    Case(
        "attention/gta-1b-1024", "attention", ("large", "gradient"), 2,
        {"sizes": {"B": 1, "n_q": 5, "n_k": 1, "n_v": 1, "N_q": 1024, "N_k": 1024, "d_k": 64, "d_v": 128}, "mask": {}},
    ),
)  # fmt: skip
