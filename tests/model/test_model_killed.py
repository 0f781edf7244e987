"""Killed in the middle of a step and begun again, a run is the uncut one, bit for bit."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

WAYS = ("linear", "cosine", "constant", "wsd", "linear bfloat16", "wsd bfloat16 compiled")
"""Schedules, a dtype where it is not float32, and whether a compiler has what it may."""

# One process a run and way is forked from one that has loaded torch and trains nothing itself;
# it kills itself while it trains.
CHILD = """
import json, os, pickle, signal, sys
from pathlib import Path
import numpy as np
import torch
from model.execution import Execution
from model.recipe import Recipe
from model.shape import Shape
from model.train import Training

torch.set_num_threads(1)
shape = Shape(d_model=16, num_layers=2, num_heads=2, d_ff=64, vocab_size=11, context_length=12)

def train(way, folder, dies_at):
    schedule, dtype = (way + " float32").split()[:2]
    execution = Execution(compiled=way.endswith("compiled"))

    def batches(step):
        if step == dies_at:
            os.kill(os.getpid(), signal.SIGKILL)
        steps = np.random.default_rng([1, step]).integers(1, 3, (4, 13))
        return np.cumsum(steps, axis=1) % 11

    training = Training(
        shape=shape, steps=40, report_at=[10, 25, 40], batches=batches, seed=3,
        recipe=Recipe(
            learning_rate=0.02, batch_size=4, schedule=schedule, final_fraction=0.1, dtype=dtype
        ),
        held_out=[batches(1000), batches(1001)], flops_per_step=1, execution=execution,
    )
    saved, told = folder / f"{way}.state", folder / f"{way}.told"
    if saved.exists():
        training.load_state_dict(pickle.loads(saved.read_bytes()))
    for progress in training.run():
        saved.write_bytes(pickle.dumps(training.state_dict()))
        with told.open("a") as file:
            file.write(json.dumps([progress.step, progress.loss, progress.train_loss]) + "\\n")
    weights = [weight.tolist() for weight in training.model.parameters()]
    (folder / f"{way}.weights").write_text(json.dumps(weights))

runs, ways = json.loads(sys.argv[1]), json.loads(sys.argv[2])
for folder, dies_at in runs:
    for way in ways:
        child = os.fork()
        if not child:
            train(way, Path(folder), dies_at)
            os._exit(0)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def trained(*runs):
    """Exit codes of the children: of each run, a folder and the step it dies at, each way."""
    told = [(str(folder), dies_at) for folder, dies_at in runs]
    command = [sys.executable, "-c", CHILD, json.dumps(told), json.dumps(WAYS)]
    root = Path(__file__).parents[2]
    run = subprocess.run(
        command, cwd=root, capture_output=True, text=True, check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    return [int(line) for line in run.stdout.split()]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Of runs never disturbed, and of runs killed at step 17 and at step 33."""
    whole, cut = (tmp_path_factory.mktemp(name) for name in ("whole", "cut"))
    codes = trained((whole, -1), (cut, 17), (cut, 33), (cut, -1))
    ends = (0, -signal.SIGKILL, -signal.SIGKILL, 0)
    assert codes == [end for end in ends for _ in WAYS]
    return whole, cut


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("way", WAYS)
def test_killed_and_resumed_it_is_the_uncut_run(folders, way):
    whole, cut = folders
    for kind in ("told", "weights"):
        assert (cut / f"{way}.{kind}").read_text() == (whole / f"{way}.{kind}").read_text()
    told = [json.loads(line) for line in (cut / f"{way}.told").read_text().splitlines()]
    assert [step for step, _, _ in told] == [10, 25, 40]
    assert len({loss for _, loss, _ in told}) == 3
