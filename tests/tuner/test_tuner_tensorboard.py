"""What a sweep writes for TensorBoard, read back as TensorBoard reads it."""

import time
from dataclasses import asdict
from types import SimpleNamespace

import pytest
from driving import bundle_of, engine_in, start
from matplotlib.image import imread
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata

from tuner import drawing
from tuner.engine import Nothing
from tuner.events import EventFile
from tuner.tensorboard import COLUMNS, TensorBoard

PEAK = 1e15


def told(folder):
    return EventAccumulator(str(folder)).Reload()


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A sweep's engine and its TensorBoard folder, written as Ray's callbacks are called."""
    from tuner.config import parse

    folder = tmp_path_factory.mktemp("sweep")
    sweep = parse(
        {
            "name": "small", "backend": "law", "budgets": [1e13, 1e14],
            "shapes": {"per_budget": 5}, "search": {"trials": 3}, "law": {"flops_per_second": 1e14},
        },
        place="small",
    )  # fmt: skip
    engine = engine_in(sweep, folder)
    board = TensorBoard(engine, folder / "tensorboard")
    while not isinstance(trial := engine.ask(), Nothing):
        ray_trial = SimpleNamespace(config={"bundle": bundle_of(trial).to_dict()})
        for progress in start(engine, trial, folder):
            result = {**asdict(progress), "key": trial.key, "peak_flops": PEAK}
            board.on_trial_result(0, [], ray_trial, result)
            if not engine.report(trial.key, progress, {"peak_flops": str(PEAK)}):
                break
        board.on_trial_complete(0, [], ray_trial)
    board.on_experiment_end([])
    return engine, folder / "tensorboard"


def test_curves_against_tokens_and_flops_are_what_the_ledger_holds(written):
    engine, folder = written
    for record in engine.ledger.records():
        log, reports = told(folder / record.key), engine.ledger.reports(record.key)
        assert set(log.Tags()["scalars"]) == {
            "by tokens/loss", "by tokens/train_loss", "by tokens/learning_rate",
            "by tokens/tokens_per_second", "by tokens/mfu", "by MFLOP/loss", "by MFLOP/train_loss",
            "end/loss", "end/mfu",
        }  # fmt: skip
        losses = [pytest.approx(p.loss, rel=1e-6) for p in reports]  # kept as float32
        by_tokens, by_flops = log.Scalars("by tokens/loss"), log.Scalars("by MFLOP/loss")
        assert [event.value for event in by_tokens] == losses
        assert [event.value for event in by_flops] == losses
        assert [event.step for event in by_tokens] == [p.tokens for p in reports]
        assert [event.step for event in by_flops] == [p.flops // 10**6 for p in reports]
        last = reports[-1]
        mfu = log.Scalars("by tokens/mfu")[-1].value
        assert mfu == pytest.approx(last.flops / last.seconds / PEAK, rel=1e-6)
        speed = log.Scalars("by tokens/tokens_per_second")[-1].value
        assert speed == pytest.approx(last.tokens / last.seconds, rel=1e-6)


def test_each_trial_has_its_row_in_the_table_of_trials(written):
    engine, folder = written
    declared = told(folder).SummaryMetadata(metadata.EXPERIMENT_TAG).plugin_data.content
    experiment = metadata.parse_experiment_plugin_data(declared)
    assert [info.name for info in experiment.hparam_infos] == COLUMNS
    for record in engine.ledger.records():
        log = told(folder / record.key)
        begun = log.SummaryMetadata(metadata.SESSION_START_INFO_TAG).plugin_data.content
        row = metadata.parse_session_start_info_plugin_data(begun).hparams
        assert row["budget"].number_value == record.question.budget
        assert row["learning_rate"].number_value == record.question.learning_rate
        assert row["size"].string_value == "{}x{}".format(*record.question.size)
        assert row["status"].string_value == record.status
        assert metadata.SESSION_END_INFO_TAG in log.Tags()["tensors"]
        (end,) = log.Scalars("end/loss")
        assert end.value == pytest.approx(engine.ledger.last(record.key).loss, rel=1e-6)
        assert end.step < 2**31  # TensorBoard's table of trials answers 500 to a larger one


def test_each_budget_s_profile_is_drawn_with_all_that_completed(written, tmp_path):
    engine, folder = written
    log = told(folder)
    completed = [record.question.budget for record in engine.ledger.records("completed")]
    assert log.Tags()["images"] == ["profiles/1e+13 FLOP", "profiles/1e+14 FLOP"]
    for budget in engine.sweep.budgets:
        last = log.Images(f"profiles/{budget:g} FLOP")[-1]
        assert last.step == completed.count(budget)
        (tmp_path / "profile.png").write_bytes(last.encoded_image_string)
        pixels = imread(tmp_path / "profile.png")
        assert pixels.shape[:2] == (last.height, last.width)
        assert pixels[..., :3].std() > 0.02


def test_a_profile_grows_while_the_sweep_runs_and_holds_nobody_up(small, tmp_path, monkeypatch):
    monkeypatch.setattr(drawing, "DRAW_EVERY", 0.05)
    monkeypatch.setattr(drawing, "DRAWING_SHARE", 1.0)
    engine = engine_in(small(budgets=[1e13]), tmp_path)
    file = EventFile(tmp_path / "log")
    draftsman = drawing.Draftsman(engine, file)
    for completed in (1, 2, 3):
        while engine.ledger.counts().get("completed", 0) < completed:
            trial = engine.ask()
            for progress in start(engine, trial, tmp_path):
                if not engine.report(trial.key, progress, {}):
                    break
        draftsman.wake()
        deadline = time.monotonic() + 60
        while draftsman._drawn.get(1e13) != completed and time.monotonic() < deadline:
            time.sleep(0.02)
    draftsman.finish()
    file.close()
    assert [event.step for event in told(tmp_path / "log").Images("profiles/1e+13 FLOP")] == [
        1,
        2,
        3,
    ]


def test_what_was_answered_from_the_record_is_shown_too(settled, tmp_path):
    from tuner.answers import Answers

    sweep = settled(budgets=[1e13], shapes={"per_budget": 3}, search={"trials": 1})
    for name in ("first", "again"):
        answers = Answers(tmp_path / "answers.db", lambda trial: trial.key, "one")
        engine = engine_in(sweep, tmp_path / name, answers=answers)
        board = TensorBoard(engine, tmp_path / name / "tensorboard")
        while not isinstance(trial := engine.ask(), Nothing):
            for progress in start(engine, trial, tmp_path):
                engine.report(trial.key, progress, {})
        board.on_experiment_end([])
        answers.close()
    keys = {record.key for record in engine.ledger.records()}
    runs = {path.parent.name for path in (tmp_path / "again" / "tensorboard").glob("*/events*")}
    assert runs == keys
    assert engine.ledger.charged() == 0


def test_a_diverged_loss_is_no_point_of_a_curve(small, tmp_path):
    engine = engine_in(small(law={"diverges": 1.0}), tmp_path)
    board = TensorBoard(engine, tmp_path / "tensorboard")
    trial = engine.ask()
    for progress in start(engine, trial, tmp_path):
        result = {**asdict(progress), "key": trial.key, "peak_flops": 0.0}
        board.on_trial_result(0, [], None, result)
    board.on_experiment_end([])
    log = told(tmp_path / "tensorboard" / trial.key)
    losses = log.Scalars("by tokens/loss") if "by tokens/loss" in log.Tags()["scalars"] else []
    assert all(event.value < 100 for event in losses)
    assert progress.diverged
