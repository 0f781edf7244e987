"""Public corpora by name, streamed through Hugging Face `datasets`. Needs a network when read."""

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from data.errors import CorpusError
from data.files import Document, document

NEEDED = "{}: public sets need the `datasets` package. Install it: pip install 'isoflop[data]'"
"""Said of a set, by its name, where the package is not installed."""


@dataclass(frozen=True, kw_only=True)
class PublicSet:
    """A public set's training split, in the order it is published."""

    name: str
    """As a person asks for it."""
    repository: str
    """On the Hugging Face hub."""
    subset: str | None = None
    """Configuration of the repository, where it has several."""
    revision: str | None = None
    """Branch of the repository; None is the main one."""

    @property
    def size(self) -> None:
        """Nobody says how much will come."""

    @property
    def notes(self) -> tuple[str, ...]:
        """Nothing is left out."""
        return ()

    @property
    def identity(self) -> dict[str, Any]:
        """Repository and place in it; what was published there is not asked again."""
        place = {"subset": self.subset, "revision": self.revision}
        return {"repository": self.repository, **place}

    def documents(self) -> Iterator[Document]:
        """Every row's text, while it comes over the network."""
        try:
            datasets = import_module("datasets")
        except ImportError:
            raise CorpusError(NEEDED.format(self.name)) from None
        try:
            rows = datasets.load_dataset(
                self.repository, self.subset, split="train", streaming=True, revision=self.revision
            )
            for row in rows:
                yield document(row["text"])
        except Exception as error:  # of the package, of HTTP, of the hub: there is no common kind
            cause = " ".join(str(error).split()) or type(error).__name__
            raise CorpusError(
                f"{self.name}: {self.repository} cannot be read ({cause}). "
                "Check the network, or name a local folder of text."
            ) from error


PUBLIC = {
    source.name: source
    for source in (
        PublicSet(name="tinystories", repository="roneneldan/TinyStories"),  # arXiv 2305.07759
        PublicSet(
            # The main branch holds a loading script, which `datasets` refuses since 4.0
            # (github.com/karpathy/nanoGPT, issue 633); this branch holds the same rows as Parquet.
            name="openwebtext",
            repository="Skylion007/openwebtext",
            revision="refs/convert/parquet",
        ),
        PublicSet(  # arXiv 2406.17557
            name="fineweb-edu", repository="HuggingFaceFW/fineweb-edu", subset="sample-10BT"
        ),
        # A copy: cerebras/SlimPajama-627B is gone (github.com/peremartra/Rearchitecting-LLMs,
        # issue 10).
        PublicSet(name="slimpajama", repository="gmongaras/SlimPajama-627B_Reupload"),
    )
}
"""The public sets known by name."""


def lacking(source: str) -> str:
    """That `source` is a public set, and what reads it not installed; else empty."""
    return NEEDED.format(source) if source in PUBLIC and find_spec("datasets") is None else ""
