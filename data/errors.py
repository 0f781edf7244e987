"""What a person is told when a corpus cannot be read or made."""

from collections.abc import Sequence


class CorpusError(Exception):
    """A source or a prepared corpus cannot be used.

    Each fault names the place, the value found there and the remedy; all are told at once.
    """

    def __init__(self, *faults: str) -> None:
        super().__init__("\n".join(faults))
        self.faults: Sequence[str] = faults
