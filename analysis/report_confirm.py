"""The report's section on a run beyond all others: what was predicted of it, and what came out."""

from analysis import wording
from analysis.confirm import Confirmation
from analysis.report_page import Section, between, table


def confirmed(found: Confirmation) -> Section:
    """A confirming run beside its prediction."""
    predicted = found.predicted
    rows = [
        ("predicted loss, nat/token", wording.loss(predicted.value),
         between((predicted.low, predicted.high), wording.loss)),
        ("measured loss, nat/token", wording.loss(found.measured), f"{found.off:+.2%}"),
        ("parameters N", wording.count(found.params), f"{found.num_layers}x{found.d_model}"),
        ("training tokens D", wording.count(found.tokens), f"batch {found.batch_size}"),
        ("peak learning rate η", wording.rate(found.learning_rate), ""),
    ]  # fmt: skip
    return Section(
        key="confirmed",
        title="Confirmed beyond the runs" if found.inside else "Not confirmed beyond the runs",
        text=(
            f"The predicted optimum at {wording.flops(found.budget)} FLOP, "
            f"{found.budget / found.largest:.3g} times the largest budget of the runs, was trained "
            f"after the prediction was made: its loss lies {found.verdict}.",
        ),
        tables=(
            table(
                f"One run held against “{found.approach}”",
                ("quantity", "value", "95 % interval, or what it means"),
                rows,
            ),
        ),
    )
