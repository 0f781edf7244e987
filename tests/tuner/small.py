"""A sweep small enough to run many of. Needs neither torch nor ray nor optuna."""

SMALL = {
    "name": "small",
    "backend": "law",
    "budgets": [1e13, 1e14],
    "shapes": {"per_budget": 5},
    "search": {"trials": 3, "learning_rate": [2e-3, 2e-1]},
}
