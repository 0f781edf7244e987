"""Reading anybody's runs: aliases, the third quantity, every refusal in words."""

import json

import numpy as np
import pandas as pd
import pytest

from analysis import runs as contract
from analysis.cells import cells
from analysis.quality import table_warnings
from analysis.runs import Runs, RunTableError, read
from analysis.simulate import Tuning, isoflop_records, simulate

COURSE = ("parameters", "compute_budget", "final_loss")


@pytest.fixture
def records(truth):
    return isoflop_records(truth, [1e18, 1e19, 1e20], np.geomspace(1e7, 1e9, 6))


def write_as(ending, records, folder):
    table, path = pd.DataFrame(records), folder / f"runs{ending}"
    if ending == ".parquet":
        table.to_parquet(path)
    elif ending == ".csv":
        table.to_csv(path)
    elif ending == ".json":
        path.write_text(json.dumps(records))
    else:
        path.write_text("\n".join(json.dumps(record) for record in records) + "\n")
    return path


@pytest.mark.parametrize("ending", [".csv", ".json", ".jsonl", ".parquet"])
@pytest.mark.parametrize(
    "names", [COURSE, ("N", "C", "L"), ("params", "budget", "loss"), ("params", "flops", "loss")]
)
def test_every_layout_reads_the_same(records, tmp_path, ending, names):
    renamed = [dict(zip(names, record.values(), strict=True)) for record in records]
    found = read(write_as(ending, renamed, tmp_path)).table
    assert found["params"].to_numpy() == pytest.approx(
        [r["parameters"] for r in records], rel=1e-15
    )
    flops = (found["tokens"] * found["params"] * 6).to_numpy()
    assert flops == pytest.approx(found["budget"].to_numpy(), rel=1e-14)
    assert found["row"].tolist() == list(range(1, len(records) + 1))


@pytest.mark.parametrize("left_out", ["budget", "params", "tokens"])
def test_any_two_give_the_third(left_out):
    full = pd.DataFrame({"budget": [6e18, 6e19], "params": [1e8, 2e8], "tokens": [1e10, 5e10],
                         "loss": [3.0, 2.8]})  # fmt: skip
    found = Runs.of(full.drop(columns=left_out)).table
    assert found[left_out].to_numpy() == pytest.approx(full[left_out].to_numpy(), rel=1e-15)


def test_a_number_is_read_to_its_last_bit(tmp_path):
    path, losses = tmp_path / "runs.csv", [2.99, 3 - 1e11 / 1e12 + 300 / 1e5 + 0.087, 0.1 + 0.2]
    path.write_text("C,N,L\n" + "".join(f"1e18,1e7,{loss!r}\n" for loss in losses))
    assert list(read(path).table["loss"]) == losses


def test_map_names_their_columns(records, tmp_path):
    odd = [
        {"size": r["parameters"], "C": r["compute_budget"], "nll": r["final_loss"]} for r in records
    ]
    path = write_as(".csv", odd, tmp_path)
    assert len(read(path, column_map={"size": "params", "nll": "loss"}).table) == len(records)
    with pytest.raises(RunTableError, match=r"'siz' that is not there; did you mean 'size'"):
        read(path, column_map={"siz": "params"})
    with pytest.raises(RunTableError, match=r"name comes first: --map size=params$"):
        read(path, column_map={"params": "size"})


def test_missing_columns_are_all_named(tmp_path):
    path = write_as(".json", [{"run_name": "a", "size": 1, "C": 2}], tmp_path)
    with pytest.raises(RunTableError) as caught:
        read(path)
    faults = " ".join(caught.value.faults)
    assert all(name in faults for name in ("'loss'", "'params'", "'tokens'", "--map theirs=loss"))
    assert "no column 'budget'" not in faults
    assert "it has run_name, size, C." in faults


@pytest.mark.parametrize("bad", ["n/a", -1.0, 0.0])
def test_bad_values_are_named_by_row_and_column(bad):
    table = pd.DataFrame({"C": [1e18, 1e18], "N": [1e8, 2e8], "L": [3.0, bad]}, dtype=object)
    with pytest.raises(RunTableError, match=r"row 2, column 'loss'.*not a positive number"):
        Runs.of(table)


@pytest.mark.parametrize("ending", [".csv", ".json", ".jsonl", ".parquet"])
def test_runs_without_a_loss_are_left_out(records, tmp_path, ending):
    """Every lab's table has runs that diverged; the others are worth as much as before."""
    for place, lost in ((3, None), (8, float("nan")), (11, float("inf"))):
        records[place]["final_loss"] = lost
    found = read(write_as(ending, records, tmp_path))
    assert [(row.row, row.reason) for row in found.dropped] == [
        (row, "no loss") for row in (4, 9, 12)
    ]
    assert len(found.table) == len(records) - 3
    said = table_warnings(found, cells(found))
    assert "3 rows without a loss left out: rows 4, 9, 12" in said


def test_a_table_without_any_loss_is_refused():
    table = pd.DataFrame({"C": [1e18, 1e18], "N": [1e8, 2e8], "L": [None, float("nan")]})
    with pytest.raises(RunTableError, match="no row has a loss: all 2 are NaN or empty"):
        Runs.of(table)


def test_a_blank_is_called_one(tmp_path):
    path = tmp_path / "runs.csv"
    path.write_text("C,N,L\n1e18,1e8,3.0\n1e18,,2.9\n")
    with pytest.raises(RunTableError, match="row 2, column 'params': a blank is not a positive"):
        read(path)


def test_every_bad_value_is_reported_at_once():
    table = pd.DataFrame({"C": [1e18, -1.0], "N": [0.0, 2e8], "L": [3.0, -1.0]})
    with pytest.raises(RunTableError) as caught:
        Runs.of(table)
    assert len(caught.value.faults) == 3


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("runs.txt", "a", "unknown ending '.txt'"),
        ("runs.json", "{", "cannot be read as .json"),
        ("runs.json", "3", "cannot be read as .json"),
        ("runs.csv", "", "cannot be read as .csv"),
    ],
)
def test_unreadable_files(tmp_path, name, content, words):
    (tmp_path / name).write_text(content)
    with pytest.raises(RunTableError, match=words):
        read(tmp_path / name)


def test_absent_files_and_empty_folders(tmp_path):
    with pytest.raises(RunTableError, match="no such file or folder"):
        read(tmp_path / "nowhere.csv")
    with pytest.raises(RunTableError, match=r"neither trials\.parquet nor trials\.csv"):
        read(tmp_path)


@pytest.mark.parametrize("ending", [".parquet", ".csv"])
def test_a_sweeps_folder(tuned_runs, tmp_path, ending):
    contract.write(tuned_runs.trials, tmp_path / f"trials{ending}")
    curve = {"trial": "a", "step": 1, "tokens": 2, "flops": 3, "loss": 4.0, "learning_rate": 0.1}
    contract.write(contract.frame([curve], contract.CURVE_COLUMNS), tmp_path / f"curves{ending}")
    found = read(tmp_path)
    assert len(found.table) == 96
    assert len(found.dropped) == 64
    assert found.dropped[0].reason == "status is pruned, not completed: worse than its rung"
    assert found.count == "non_embedding"
    assert len(found.curves) == 1


def test_our_n_leaves_out_embeddings(tuned_runs):
    trials = tuned_runs.trials.assign(params_embedding=100, params_head=40)
    found = Runs.of(trials)
    total = found.table["params_total"]
    assert (total - found.table["params"]).eq(100).all()
    assert (total - found.with_convention("transformer").table["params"]).eq(140).all()
    assert (total - found.with_convention("total").table["params"]).eq(0).all()


def test_rekeying_keeps_profiles_together(tuned_runs):
    found = tuned_runs.with_convention("non_embedding", flops="6ND").table
    assert found["budget"].nunique() == tuned_runs.table["budget"].nunique()
    assert found["budget"].to_numpy() == pytest.approx(tuned_runs.table["budget"], rel=1e-3)


def test_counting_needs_the_counts():
    with pytest.raises(RunTableError, match="full column 'params_embedding'"):
        Runs.of(pd.DataFrame({"C": [1e18], "N": [1e8], "L": [3.0]})).with_convention(
            "non_embedding"
        )


def test_a_cell_is_the_best_rate_of_its_shape(tuned_runs):
    points = cells(tuned_runs)
    assert len(points) == 32
    assert set(points.learning_rate) <= {0.008, 0.016, 0.032}
    best = tuned_runs.table.groupby(["budget", "params"])["loss"].min()
    assert points.loss.tolist() == best.tolist()
    assert not points.rate_on_edge.any()


def test_best_rate_on_the_edge_is_seen(tuned_runs):
    trials = tuned_runs.trials
    runs = Runs.of(trials[trials["learning_rate"] >= 0.016])
    points = cells(runs)
    assert points.rate_on_edge.mean() > 0.5
    assert (points.rate_at_end == points.rate_on_edge).all()
    (said,) = [line for line in table_warnings(runs, points) if "on the edge of the" in line]
    assert said.endswith("near the end of all rates tried: widen the range")


def test_a_best_rate_on_the_edge_of_its_own_size_alone_asks_for_more_rates(tuned_runs):
    trials = tuned_runs.trials
    largest = trials["params"] == trials["params"].max()
    runs = Runs.of(trials[(trials["learning_rate"] <= 0.016) | largest])
    points = cells(runs)
    assert points.rate_on_edge.mean() > 0.5
    (said,) = [line for line in table_warnings(runs, points) if "on the edge of the" in line]
    assert said.endswith("try more rates at each size")


def test_seeds_of_the_best_rate_are_averaged(tuned_runs):
    again = tuned_runs.trials.assign(seed=1, loss=tuned_runs.trials["loss"] + 0.1)
    both = Runs.of(pd.concat([tuned_runs.trials, again], ignore_index=True))
    assert cells(both).loss == pytest.approx(cells(tuned_runs).loss + 0.05)


def test_seeds_and_rates_tell_of_noise(truth):
    sizes = np.geomspace(3e3, 3e5, 8)
    repeated = cells(Runs.of(simulate(truth, [1e11, 1e12], sizes, seeds=8, noise=0.01)))
    assert repeated.noise == pytest.approx(0.01 / np.sqrt(8), rel=0.15)
    rates = tuple(0.004 * 2.5**i for i in range(5))
    tuning = Tuning(rates=rates, best=0.02, exponent=-0.35, reference=3e4, curvature=0.02)
    coarse = cells(Runs.of(simulate(truth, [1e11, 1e12], sizes, tuning=tuning)))
    assert 1e-3 < coarse.noise < 5e-3
    assert cells(Runs.of(simulate(truth, [1e11, 1e12], sizes))).noise == 0.0
