"""What ends a command in a line, not a traceback; loads nothing."""


class BudgetError(Exception):
    """The cap does not allow what was asked: exit 3."""


class ConfigError(Exception):
    """A person's mistake in a sweep file: every fault, each with place, value and remedy."""
