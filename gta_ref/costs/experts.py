"""A mixture of experts in place of the MLP, as in DeepSeek-V3: many MLPs, of which every token uses a few.

A router, one linear map from H to a score per expert, chooses `used` of the `routed` experts for each token; the
`shared` experts work for every token. All are SwiGLU MLPs of one width.

Operations are exact: a token has as many, whichever experts it is given. The bytes of the weights that a pass moves
depend on the router, which these figures do not know. They are counted as if no two tokens shared an expert as long as
there are others, which is the most that can happen: min(routed, used · tokens) experts.
"""

from __future__ import annotations

from dataclasses import dataclass

from gta_ref.errors import as_size


@dataclass(frozen=True)
class Experts:
    """Sizes of the mixtures of experts of a model, checked on construction.

    Attributes
    ----------
    first : int
        Number of layers at the beginning that have a plain MLP.
    routed : int
        Experts among which the router chooses.
    used : int
        Experts that it chooses for a token.
    shared : int
        Experts that work for every token.
    width : int
        Width inside an expert.
    """

    first: int
    routed: int
    used: int
    shared: int
    width: int

    def __post_init__(self) -> None:
        for name, least in (("first", 0), ("routed", 1), ("used", 1), ("shared", 0), ("width", 1)):
            object.__setattr__(self, name, as_size(name, getattr(self, name), at_least=least))
        if self.used > self.routed:
            raise ValueError(f"used={self.used} must be at most routed={self.routed}")

    def macs(self, hidden_size: int) -> int:
        """Multiply–accumulates per token and layer, those of the router included."""
        return as_size("hidden_size", hidden_size) * (self.routed + 3 * self.width * (self.used + self.shared))

    def parameters(self, hidden_size: int) -> int:
        """Parameters of one layer, without DeepSeek-V3's correction of the router's scores, one number per expert."""
        return as_size("hidden_size", hidden_size) * (self.routed + 3 * self.width * (self.routed + self.shared))

    def kept(self, hidden_size: int) -> int:
        """Elements per token and layer that training keeps.

        They are the input, the router's scores, the output of every expert that the router chose, and for every expert
        that works its two projections and their product.
        """
        own = self.routed + 3 * self.width * (self.used + self.shared)
        return as_size("hidden_size", hidden_size) * (1 + self.used) + own

    def operators(self, hidden_size: int, tokens: int) -> list[tuple[int, int]]:
        """Operations and elements moved of each operator of one layer."""
        hidden_size, tokens = as_size("hidden_size", hidden_size), as_size("tokens", tokens)
        found = [_linear(hidden_size, self.routed, tokens, 1)]
        chosen, touched = tokens * self.used, min(self.routed, tokens * self.used)
        for rows, weights in ((chosen, touched), (tokens * self.shared, self.shared)):
            if rows:
                for d_in, d_out in ((hidden_size, self.width), (hidden_size, self.width), (self.width, hidden_size)):
                    found.append(_linear(d_in, d_out, rows, weights))
                found.append((5 * rows * self.width, 3 * rows * self.width))  # as for a plain MLP
        outputs = chosen + tokens * self.shared
        found.append((2 * outputs * hidden_size, (outputs + tokens) * hidden_size))  # the weighted sum of all outputs
        return found


def _linear(d_in: int, d_out: int, rows: int, weights: int) -> tuple[int, int]:
    return 2 * rows * d_in * d_out, weights * d_in * d_out + rows * (d_in + d_out)
