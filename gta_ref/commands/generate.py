"""gta-ref generate: let a language model continue a text."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from gta_ref.commands.common import JsonOption, ModelOption, one_line_errors

if TYPE_CHECKING:
    from gta_ref.cache import KVCache


@one_line_errors
def generate(
    text: Annotated[str, typer.Argument(help="The beginning of a text, which the model continues.")],
    model: ModelOption = "smollm2",
    tokens: Annotated[
        int, typer.Option(help="Largest number of new tokens; there are fewer if the model ends the text.")
    ] = 40,
    temperature: Annotated[
        float,
        typer.Option(
            help="Randomness of the choice: 0 always takes the most likely token, 1 draws with the model's own "
            "probabilities, more makes unlikely tokens more frequent."
        ),
    ] = 0.0,
    top_p: Annotated[
        float,
        typer.Option(
            help="Draw only from the most likely tokens that together have this probability, from 0 to 1; 1 keeps all."
        ),
    ] = 1.0,
    seed: Annotated[
        int, typer.Option(help="Seed of the random numbers, which are used if the temperature is above 0.")
    ] = 0,
    cache: Annotated[
        bool,
        typer.Option(
            "--cache/--no-cache",
            help="Keep keys and values of earlier tokens in a cache, or compute everything again for every token.",
        ),
    ] = True,
    json: JsonOption = None,
) -> None:
    """Continue a text with a language model.

    The continuation is followed by the speed of prefill and decoding and by the size of the cache.
    """
    from gta_ref.errors import as_int
    from gta_ref.files import write_json
    from gta_ref.lm import generate as lm
    from gta_ref.lm.model import new_caches
    from gta_ref.weights.load import load_model

    # arguments that can be checked without the model come first, because reading the model takes seconds
    lm.check_sampling(temperature, top_p)
    as_int("seed", seed, at_least=0)
    as_int("tokens", tokens, at_least=1)
    if not text:
        raise ValueError("text='' is empty; expected something to continue")
    chosen = load_model(model)
    ids = chosen.tokenizer.encode(text)
    if chosen.context_length is not None and len(ids) + tokens > chosen.context_length:
        raise ValueError(
            f"{len(ids)} tokens of text and tokens={tokens} more are beyond the {chosen.context_length} "
            f"that {chosen.name} can read"
        )
    caches = new_caches(chosen.config, 1, len(ids) + tokens - 1) if cache else None
    run = Run(len(ids))
    new = lm.stream(
        chosen.params,
        ids,
        chosen.config,
        tokens,
        caches=caches,
        temperature=temperature,
        top_p=top_p,
        seed=seed,
        ends=chosen.tokenizer.ends,
    )
    console = Console()
    written = ""
    console.out(text, style="dim", end="", highlight=False)
    for piece in chosen.tokenizer.pieces(run.timed(new)):
        written += piece
        console.out(piece, end="", highlight=False)
    if not written.endswith("\n"):
        console.print()
    if len(run.ids) < tokens:
        console.print("(end of the text)", style="dim")
    console.print(f"\n{run.speed()}; {_held(caches)}", highlight=False)
    if json is not None:
        settings = {"tokens": tokens, "temperature": temperature, "top_p": top_p, "seed": seed, "cache": cache}
        result = {"model": chosen.name, "text": text, **settings, "continuation": written, "prompt_ids": ids}
        result["ended"] = len(run.ids) < tokens
        write_json(json, result | run.figures() | _bytes(caches))


@dataclass
class Run:
    """The tokens of one run and the times at which they were produced."""

    n_prompt: int
    ids: list[int] = field(default_factory=list)
    start: float = 0.0
    moments: list[float] = field(default_factory=list)

    def timed(self, tokens: Iterator[int]) -> Iterator[int]:
        """Pass tokens on and record when each was produced; the time of the first includes the prefill."""
        self.start = time.perf_counter()
        for token in tokens:
            self.moments.append(time.perf_counter())
            self.ids.append(token)
            yield token
        if not self.ids:  # the text ended at once
            self.moments.append(time.perf_counter())

    def figures(self) -> dict[str, Any]:
        """Seconds and tokens per second; the decoding rate is None if nothing was decoded."""
        prefill = self.moments[0] - self.start
        n_decoded, decode = len(self.moments) - 1, self.moments[-1] - self.moments[0]
        return {
            "ids": self.ids,
            "prefill_seconds": prefill,
            "prefill_tokens_per_second": self.n_prompt / prefill,
            "decode_seconds": decode,
            "decode_tokens_per_second": n_decoded / decode if n_decoded else None,
        }

    def speed(self) -> str:
        """The speeds of :meth:`figures` as text."""
        found = self.figures()
        said = f"prefill {found['prefill_tokens_per_second']:.1f} tokens/s"
        if found["decode_tokens_per_second"] is not None:
            said += f", decode {found['decode_tokens_per_second']:.1f} tokens/s"
        return said


def _bytes(caches: list[KVCache] | None) -> dict[str, int]:
    held = sum(cache.used_nbytes for cache in caches or ())
    return {"cache_bytes": held, "cache_tokens": caches[0].length if caches else 0}


def _held(caches: list[KVCache] | None) -> str:
    if not caches:
        return "no cache"
    found = _bytes(caches)
    return f"cache {found['cache_bytes']:,} bytes, {found['cache_tokens']} tokens"
