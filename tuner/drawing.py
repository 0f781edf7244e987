"""Each budget's profile as it grows, drawn in a thread of its own that reads the ledger."""

import io
import threading
import time
from collections import defaultdict

import pandas as pd

from tuner import space
from tuner.engine import Engine
from tuner.events import EventFile
from tuner.ledger import Ledger

DRAW_EVERY = 5.0
"""Seconds between two drawings, at least."""
DRAWING_SHARE = 0.02
"""Most of one processor's time that drawing may take."""
DPI = 120


class Draftsman:
    """Draws the profiles that changed, now and then, into a file of events."""

    def __init__(self, engine: Engine, file: EventFile) -> None:
        self._engine = engine
        self._file = file
        self._drawn: dict[float, int] = {}
        self._woken, self._over = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._work, name="profiles", daemon=True)
        self.seconds = 0.0
        """Processor time that drawing took."""
        self._thread.start()

    def wake(self) -> None:
        """A trial ended."""
        self._woken.set()

    def finish(self) -> None:
        """Draw what is not drawn yet, and stop."""
        self._over.set()
        self._woken.set()
        self._thread.join()

    def _work(self) -> None:
        ledger = Ledger.reading(self._engine.ledger.path)
        while not self._over.is_set():
            self._woken.wait()
            self._woken.clear()
            began = time.thread_time()
            self.draw(ledger)
            took = time.thread_time() - began
            self.seconds += took
            self._over.wait(max(DRAW_EVERY, took / DRAWING_SHARE))
        self.draw(ledger)
        ledger.close()

    def draw(self, ledger: Ledger) -> None:
        """Draw every profile with completed trials that were not drawn."""
        losses = {key: last.loss for key, last in ledger.lasts().items()}
        rows: dict[float, list[tuple[float, float, float]]] = defaultdict(list)
        for record in ledger.records("completed"):
            shape = space.shape(self._engine.sweep, record.question.size, self._engine.vocab_size)
            place = (shape.params_non_embedding, record.question.learning_rate)
            rows[record.question.budget].append((*place, losses[record.key]))
        for budget, found in rows.items():
            if self._drawn.get(budget) != len(found):
                self._drawn[budget] = len(found)
                self._picture(budget, found)

    def _picture(self, budget: float, rows: list[tuple[float, float, float]]) -> None:
        # Where the first is drawn: matplotlib takes a second to load.
        from analysis.figures_runs import growing_profile  # noqa: PLC0415
        from analysis.style import PAPER, draw  # noqa: PLC0415

        table = pd.DataFrame(rows, columns=["params", "learning_rate", "loss"])
        figure = draw(lambda ax: growing_profile(table, ax, budget=budget))
        png = io.BytesIO()
        figure.savefig(png, format="png", dpi=DPI, facecolor=PAPER.light)
        width, height = (round(inches * DPI) for inches in figure.get_size_inches())
        self._file.image(f"profiles/{budget:g} FLOP", png.getvalue(), (width, height), len(rows))
