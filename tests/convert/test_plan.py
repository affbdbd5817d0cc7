"""The results in docs are those of the plan."""

import dataclasses
import json
from pathlib import Path

from gta_ref.convert.plan import Plan

FOUND = json.loads((Path(__file__).parents[2] / "docs" / "convert.json").read_text(encoding="utf-8"))


def test_the_results_in_docs_are_those_of_the_plan():
    """A result that the plan does not have could not be found again with the command."""
    plan = Plan()
    planned = {point.name: [dataclasses.asdict(budget) for budget in point.budgets] for point in plan.points}
    assert {point["name"]: [one["settings"] for one in point["healed"]] for point in FOUND["points"]} == planned
    assert FOUND["fitted_tokens"] == 2 * plan.fitted[0] * plan.fitted[1]
    assert set(FOUND["judged_tokens"].values()) == {plan.judged[0] * plan.judged[1]}
