"""The training API over HTTP: keys, budgets, and runs that answer what loss a model reaches."""
