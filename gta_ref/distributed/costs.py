"""What attention over several ranks costs: bytes by formula, and time by a model of two numbers per link.

With N tokens on R ranks, E = n_k d_k + n_v d_v numbers of keys and values per token (GTA: n_k d_h + n_c d_l), s bytes
each, a rank sends per layer and sequence:

    forward     (R − 1) · (N/R) · E · s             keys and values, in every step but the last
    backward    the same, and R · (N/R) · E · 4     the gradients of keys and values too, in every step, in float32
    decoding    (R − 1) · n_q (d_v + 1) · 4         z and lse of a new token, to every other rank

A message of b bytes takes α + b/β: latency and bandwidth of the link. In a step of the ring a rank with L = N/R tokens
sends L · E · s bytes and, if the mask is causal and the layout zigzag, does L²/2 · n_q (d_k + d_v) multiply–adds. The
message takes no longer than the computation from

    L = E · s · P / (β · n_q (d_k + d_v))

tokens per rank on, where P is operations per second. This does not depend on N or R.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gta_ref.costs.hardware import Hardware
from gta_ref.errors import as_size
from gta_ref.mechanisms.structure import Structure


@dataclass(frozen=True)
class Link:
    """What connects ranks.

    Attributes
    ----------
    name : str
    latency : float
        α, seconds per message.
    bandwidth : float
        β, bytes per second and direction.
    source : str
        Where the figures come from.
    """

    name: str
    latency: float
    bandwidth: float
    source: str


LINKS = {
    "nvlink": Link(
        "NVLink 4",
        2e-6,
        450e9,
        "NVIDIA H100 SXM5 datasheet: 900 GB/s in both directions together; latency: an assumption, a few microseconds",
    ),
    "infiniband": Link(
        "InfiniBand NDR",
        2e-6,
        50e9,
        "NVIDIA ConnectX-7 datasheet: 400 Gb/s; latency: an assumption, a few microseconds",
    ),
    "ethernet": Link(
        "Ethernet, 100 Gb/s", 20e-6, 12.5e9, "IEEE 802.3: 100 Gb/s; latency: an assumption, TCP through a kernel"
    ),
}


def travels(layer: Structure) -> int:
    """E, the numbers of keys and values per token that travel round the ring."""
    return layer.n_k * layer.d_k + layer.n_v * layer.d_v


def work(layer: Structure) -> int:
    """Multiply–adds of the attention core per pair of a query token and a key token, n_q (d_k + d_v)."""
    return layer.n_q * (layer.d_k + layer.d_v)


def ring_bytes(
    layer: Structure, tokens: int, ranks: int, *, itemsize: int, backward: bool = False, real: int = 4
) -> int:
    """Bytes that one rank sends for one sequence in one layer.

    Parameters
    ----------
    layer : Structure
    tokens : int
        N, a multiple of `ranks`.
    ranks : int
    itemsize : int
        Bytes per number as it is stored.
    backward : bool
        Whether to count the backward instead of the forward.
    real : int
        Bytes per number in the precision of computation, in which gradients travel.
    """
    tokens, ranks = as_size("tokens", tokens), as_size("ranks", ranks)
    if ranks == 1:
        return 0
    local = tokens // ranks * travels(layer)
    found = (ranks - 1) * local * itemsize
    return found + ranks * local * real if backward else found


def decode_bytes(layer: Structure, ranks: int, *, new: int = 1, real: int = 4) -> int:
    """Bytes that one rank sends per sequence, layer and step with `new` tokens."""
    return (as_size("ranks", ranks) - 1) * new * layer.n_q * (layer.d_v + 1) * real


def hidden_from(layer: Structure, hardware: Hardware, link: Link, *, itemsize: int = 2) -> float:
    """Tokens per rank from which a step's message takes no longer than its computation, both at their peak."""
    return travels(layer) * itemsize * hardware.peak / (link.bandwidth * work(layer))


def ring_seconds(
    layer: Structure, tokens: int, ranks: int, hardware: Hardware, link: Link, *, itemsize: int = 2, share: float = 0.5
) -> dict[str, Any]:
    """The time of a causal forward of one sequence in one layer, predicted.

    Parameters
    ----------
    layer, tokens, ranks, hardware, link, itemsize
        As above.
    share : float
        The share of its peak that the attention core reaches.

    Returns
    -------
    found : dict
        ``computing``, ``sending`` and ``total`` in seconds. In a step the longer of computing and sending counts; the
        last step sends nothing.
    """
    local = tokens // ranks
    per_step = local**2 * work(layer) / (hardware.peak * share)  # L²/2 pairs, two operations per multiply–add
    message = link.latency + local * travels(layer) * itemsize / link.bandwidth if ranks > 1 else 0.0
    total = (ranks - 1) * max(per_step, message) + per_step
    return {"computing": ranks * per_step, "sending": (ranks - 1) * message, "total": total}
