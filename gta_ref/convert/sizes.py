"""What a GTA layer keeps of the GQA layer from which it is made."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from gta_ref.errors import as_size, check_choice, check_type
from gta_ref.mechanisms import gqa, gta

OPEN = {"sigmoid": 2.0, "none": 1.0}  # the gate's activation → factor on the decoders that makes up for a gate at 0


@dataclass(frozen=True)
class Sizes:
    """What a GTA layer keeps of a GQA layer; None keeps all.

    Parameters
    ----------
    n_q : int, optional
        Maps; divides the number of heads.
    n_k : int, optional
        Key heads; divides n_q. Default: as many as the original has, or fewer if that does not divide n_q.
    n_c : int, optional
        Latent value heads; divides n_q. Default 1.
    latent_dim : int, optional
        d_l. Default: the width of all the original's values divided by n_c.
    gate : {"sigmoid", "none"}
        Default "sigmoid".
    """

    n_q: int | None = None
    n_k: int | None = None
    n_c: int = 1
    latent_dim: int | None = None
    gate: str = "sigmoid"

    def config(self, original: gqa.Config) -> gta.Config:
        """The GTA layer's configuration.

        Raises
        ------
        ValueError
            If the sizes do not fit together, or the original has what GTA has not.
        """
        check_type("original", original, gqa.Config, "a GQA layer's Config")
        plain = gqa.Config(
            original.hidden_size,
            original.n_heads,
            original.head_dim,
            original.n_k,
            rope_theta=original.rope_theta,
            rope_pairing=original.rope_pairing,
        )
        for one in fields(gqa.Config):
            # norm_eps is that of qk_norm
            if one.name != "norm_eps" and getattr(original, one.name) != getattr(plain, one.name):
                raise ValueError(
                    f"{one.name}={getattr(original, one.name)!r} must be {getattr(plain, one.name)!r}: only plain GQA "
                    "layers are converted to GTA"
                )
        check_choice("gate", self.gate, tuple(OPEN))
        n_q = original.n_heads if self.n_q is None else as_size("n_q", self.n_q)
        n_k = math.gcd(original.n_k, n_q) if self.n_k is None else as_size("n_k", self.n_k)
        n_c = as_size("n_c", self.n_c)
        whole = original.n_k * original.head_dim
        return gta.Config(
            original.hidden_size,
            original.n_heads,
            original.head_dim,
            n_q,
            n_k,
            n_c,
            max(1, whole // n_c) if self.latent_dim is None else as_size("latent_dim", self.latent_dim),
            rope_theta=original.rope_theta,
            rope_pairing=original.rope_pairing,
            gate=self.gate,
            bias=False,
        )
