"""What a study's runs show together: mean, spread, and whether a difference is more than chance.

An arm is compared with the baseline seed by seed, because runs with the same seed see the same batches. The interval of
the mean difference is Student's 95 % interval, from one difference per seed. If it contains 0, the two arms are not
statistically distinguishable in this study.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

from gta_ref.lab.studies import Study

Result = dict[str, Any]


def summarise(study: Study, results: Sequence[Result]) -> dict[str, Any]:
    """Summarise a study in numbers.

    Parameters
    ----------
    study : Study
    results : sequence of dict
        From :func:`gta_ref.lab.runner.run`.

    Returns
    -------
    summary : dict
        Keys: name, question, baseline, source, seeds, steps, tokens, dates, seconds, and ``arms``: arm → parameters,
        cache_elements, attention_macs, loss (one per seed), validation (step → mean over seeds), mean, spread (standard
        deviation over seeds), measured (name → one number per seed), and compared with the baseline: difference (mean),
        interval and verdict ("lower", "higher" or, if the interval contains 0, "not distinguishable").
    """
    arms: dict[str, Any] = {}
    for arm in study.arms:
        runs = [result for result in results if result["arm"] == arm]
        losses = [run["loss"] for run in runs]
        arms[arm] = {
            **{name: runs[0][name] for name in ("parameters", "cache_elements", "attention_macs")},
            "loss": losses,
            "mean": statistics.fmean(losses),
            "spread": _spread(losses),
            "validation": {
                step: statistics.fmean(run["validation"][step] for run in runs) for step in runs[0]["validation"]
            },
            "measured": {
                name: [run["measured"][name] for run in runs]
                for name in (runs[0]["measured"] if study.measure is not None else ())
            },
        }
    for arm, found in arms.items():
        if arm != study.baseline:
            found |= compare(found["loss"], arms[study.baseline]["loss"])
    dates = sorted(result["date"] for result in results)
    return {
        "name": study.name,
        "question": study.question,
        "baseline": study.baseline,
        "source": results[0]["source"],
        "seeds": list(study.seeds),
        "steps": study.settings.steps,
        "tokens": study.settings.steps * study.settings.batch * study.settings.length,
        "dates": [dates[0], dates[-1]],
        "seconds": round(sum(result["seconds"] for result in results), 1),
        "arms": arms,
    }


def compare(losses: Sequence[float], baseline: Sequence[float]) -> dict[str, Any]:
    """Mean difference from the baseline, its 95 % interval, and the verdict that the interval allows."""
    differences = [loss - other for loss, other in zip(losses, baseline, strict=True)]
    mean = statistics.fmean(differences)
    if len(differences) < 2:
        return {"difference": mean, "interval": None, "verdict": "not distinguishable"}
    from scipy.stats import t

    n = len(differences)
    half = float(t.ppf(0.975, n - 1)) * statistics.stdev(differences) / math.sqrt(n)
    verdict = "lower" if mean + half < 0 else "higher" if mean - half > 0 else "not distinguishable"
    return {"difference": mean, "interval": [mean - half, mean + half], "verdict": verdict}


def loss_rows(summary: dict[str, Any]) -> list[tuple[str, ...]]:
    """The table of the losses: a header and one line per arm, all as text."""
    lines: list[tuple[str, ...]] = [("", "cache", "loss", f"− {summary['baseline']}", "95 % interval", "")]
    for name, arm in summary["arms"].items():
        against = ("", "", "baseline")
        if name != summary["baseline"]:
            interval = arm["interval"]
            span = f"[{interval[0]:+.3f}, {interval[1]:+.3f}]" if interval else ""
            against = (f"{arm['difference']:+.3f}", span, arm["verdict"])
        lines.append((name, f"{arm['cache_elements']:g}", f"{arm['mean']:.3f} ± {arm['spread']:.3f}", *against))
    return lines


def measured_rows(summary: dict[str, Any]) -> list[tuple[str, ...]]:
    """The table of what was measured besides the loss, mean ± spread over seeds; empty if nothing was."""
    names = list(next(iter(summary["arms"].values()))["measured"])
    lines = [("", *names)] if names else []
    for arm_name, arm in summary["arms"].items() if names else ():
        lines.append((arm_name, *(f"{statistics.fmean(x):.3g} ± {_spread(x):.2g}" for x in arm["measured"].values())))
    return lines


def _spread(values: Sequence[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else math.nan
