"""One model from the command line: trained, killed, resumed, watched, and made to write."""

import json
import signal
import subprocess
import sys
from types import SimpleNamespace
from typing import get_args

import pytest
import torch
from filelock import FileLock
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from typer.testing import CliRunner

from model.recipe import Schedule
from model.transformer import BasicsTransformerLM
from tuner import single
from tuner.backends.contract import OutOfMemoryError
from tuner.cli import app
from tuner.config import load
from tuner.errors import ConfigError

ASKED = ("--size", "1x16", "--budget", "3e8", "--learning-rate", "0.02")


def isoflop(*arguments, stdin=None):
    return CliRunner().invoke(app, [str(a) for a in arguments], input=stdin)


@pytest.fixture(scope="module")
def sweep_file(text, tmp_path_factory):
    file = tmp_path_factory.mktemp("sweep") / "s.toml"
    file.write_text(
        f'name = "s"\nbudgets = [1e9]\n[data]\nsource = "{text}"\nheld_out_tokens = 4096\n'
    )
    return file


@pytest.fixture(scope="module")
def trained(sweep_file, tmp_path_factory):
    """A model's folder and what the command said of it."""
    folder = tmp_path_factory.mktemp("trained") / "model"
    result = isoflop("train", sweep_file, *ASKED, "--dir", folder, "--json")
    assert result.exit_code == 0, result.output
    return folder, json.loads(result.stdout), result.stderr


def weights(folder):
    return torch.load(folder / "model.pt", weights_only=True)


def task(sweep_file, folder, **changed):
    given = {"seed": 0, "folder": folder, "reports": None} | changed
    return single.task(load(sweep_file, ()), "1x16", 3e8, 0.02, **given)


def test_it_says_what_it_trained(trained, sweep_file):
    folder, facts, talk = trained
    job = task(sweep_file, folder)
    assert facts["steps"] == job.trial.steps
    assert facts["flops"] == job.trial.flops <= 3e8
    assert facts["tokens"] == job.trial.tokens == facts["epochs"] * job.corpus.train_tokens
    assert facts["bpb"] == pytest.approx(facts["loss"] / 0.6931472 / job.corpus.bytes_per_token)
    assert facts["params"] == sum(w.numel() for w in weights(folder).values())
    for number in (f"{facts['loss']:.4f}", f"{facts['bpb']:.4f} bit/byte", "tokens/s"):
        assert number in talk


def test_taken_up_elsewhere_it_computes_as_it_began(sweep_file, tmp_path, monkeypatch):
    job = task(sweep_file, tmp_path / "model", reports=4)
    begun = single.train(job, lambda step: None)
    next(begun)
    begun.close()
    found = (tmp_path / "model" / single.SLOT).read_text()
    monkeypatch.setattr(single, "find", None)  # the probe of another machine
    *_, last = single.train(job, lambda step: None)
    assert last.final
    assert (tmp_path / "model" / single.SLOT).read_text() == found


KILL = """
import os, signal, sys
from pathlib import Path
from tuner import single
from tuner.config import load
def die(step):
    if step == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
task = single.task(load(Path(sys.argv[1]), ()), "1x16", 3e8, 0.02, seed=0,
                   folder=Path(sys.argv[2]), reports=None)
for _ in single.train(task, die): pass
"""


@pytest.mark.parametrize("share", [0.1, 0.6])
def test_killed_and_started_again_it_is_the_undisturbed_one_bit_for_bit(
    sweep_file, trained, tmp_path, share
):
    """Once before the first checkpoint, once in the middle between two."""
    whole, facts, _ = trained
    folder = tmp_path / "model"
    step = str(round(share * facts["steps"]))
    died = subprocess.run(
        [sys.executable, "-c", KILL, sweep_file, folder, step], check=False, capture_output=True
    )
    assert died.returncode == -signal.SIGKILL, died.stderr
    result = isoflop("train", sweep_file, *ASKED, "--dir", folder, "--json")
    again = json.loads(result.stdout)
    told = {"folder", "seconds"}
    assert {k: v for k, v in again.items() if k not in told} == {
        k: v for k, v in facts.items() if k not in told
    }
    ours, theirs = weights(folder), weights(whole)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


EVERY_SCHEDULE = """
import os, signal, sys
from pathlib import Path
import torch
from tuner import single
from tuner.config import load
torch.set_num_threads(1)

def task(schedule, folder, workers):
    settings = [f'training.schedule="{schedule}"', "training.cooldown_floor=5",
                f"resources.loading_workers={workers}"]
    return single.task(load(Path(sys.argv[1]), settings), "1x8", 1e8, 0.02, seed=0,
                       folder=Path(sys.argv[2]) / schedule / folder, reports=5)

def run(task, on_step=lambda step: None):
    *_, last = single.train(task, on_step)
    weights = torch.load(task.folder / "model.pt")
    return last.loss, last.loss_se, last.train_loss, [w.tolist() for w in weights.values()]

def killed(schedule):
    child = os.fork()
    if not child:
        cut = task(schedule, "cut", 1)
        middle = round(.7 * cut.trial.steps)
        run(cut, lambda step: step == middle and os.kill(os.getpid(), signal.SIGKILL))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

schedules = sys.argv[3:]
for schedule in schedules:
    assert killed(schedule) == -signal.SIGKILL
ends = set()
for schedule in schedules:
    begun = []
    resumed = run(task(schedule, "cut", 2), begun.append)
    assert begun[0] > 0, "it began anew"
    assert resumed == run(task(schedule, "whole", 0)), schedule
    ends.add(resumed[0])
assert len(ends) == len(schedules), "the schedules are no different"
"""


def test_for_every_schedule_and_number_of_loading_workers(sweep_file, tmp_path):
    """Killed with one worker, gone on with two, the same bits as uncut with none."""
    schedules = get_args(Schedule)
    assert len(schedules) == 4
    done = subprocess.run(
        [sys.executable, "-c", EVERY_SCHEDULE, sweep_file, tmp_path, *schedules],
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_a_finished_training_is_not_repeated(sweep_file, trained):
    folder, facts, _ = trained
    steps = []
    reports = list(single.train(task(sweep_file, folder), steps.append))
    assert reports[-1].loss == facts["loss"]
    assert not steps


def test_reports_change_how_often_it_is_looked_at_and_nothing_else(sweep_file, trained, tmp_path):
    _, facts, _ = trained
    job = task(sweep_file, tmp_path / "m", reports=7)
    steps = []
    reports = list(single.train(job, steps.append))
    assert len(reports) == 7
    assert steps == list(range(facts["steps"]))
    assert (reports[-1].loss, reports[-1].loss_se) == (facts["loss"], facts["loss_se"])


def test_tensorboard_tells_the_whole_history_once(sweep_file, trained):
    folder, facts, _ = trained
    isoflop("train", sweep_file, *ASKED, "--dir", folder)  # again, with nothing left to do
    log = EventAccumulator(str(folder / "tensorboard")).Reload()
    job = task(sweep_file, folder)
    points = log.Scalars("loss")
    tokens = job.trial.batch_size * job.trial.shape.context_length
    assert [p.step for p in points] == [tokens * step for step in job.trial.report_steps]
    assert points[-1].value == pytest.approx(facts["loss"])
    assert log.Scalars("bpb")[-1].value == pytest.approx(facts["bpb"])


def test_ctrl_c_says_how_to_go_on(sweep_file, tmp_path, monkeypatch):
    def interrupted(task, on_step):
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr(single, "train", interrupted)
    result = isoflop("train", sweep_file, *ASKED, "--dir", tmp_path / "m")
    assert result.exit_code == 130
    assert "interrupted; the same command goes on from the beginning" in result.stderr


def test_too_little_memory_is_told(sweep_file, tmp_path, monkeypatch):
    def large(task, on_step):
        raise OutOfMemoryError(4)
        yield

    monkeypatch.setattr(single, "train", large)
    result = isoflop("train", sweep_file, *ASKED, "--dir", tmp_path / "m")
    assert result.exit_code == 1
    assert "isoflop: out of memory at 4 sequences at once. Take a smaller" in result.stderr


def test_another_question_in_the_same_folder_is_refused(sweep_file, trained):
    folder, *_ = trained
    with pytest.raises(ConfigError, match="holds a model of another configuration"):
        next(single.train(task(sweep_file, folder, seed=1), print))


def test_two_trainings_in_one_folder_are_refused(sweep_file, tmp_path):
    folder = tmp_path / "m"
    folder.mkdir()
    with FileLock(folder / ".lock"), pytest.raises(ConfigError, match="another process trains"):
        next(single.train(task(sweep_file, folder), print))


def test_more_tokens_than_there_are_are_refused_unless_repeats_are_asked(sweep_file, tmp_path):
    settings = ("-s", "data.max_bytes=20000", "-s", "data.held_out_share=0.2")
    asked = ("train", sweep_file, *ASKED, "--budget", "2e9", *settings, "--dir", tmp_path / "m")
    error = isoflop(*asked).exception
    assert isinstance(error, ConfigError)
    assert "tokens, " in str(error)
    assert "-s data.allow_repeats=true" in str(error)
    result = isoflop(*asked, "-s", "data.allow_repeats=true", "--json")
    assert json.loads(result.stdout)["epochs"] > 1


# --- text


def test_the_same_seed_writes_the_same_text(trained):
    folder, *_ = trained
    asked = ("generate", folder, "--prompt", "5 is ", "--tokens", "12", "--seed")
    said = isoflop(*asked, 3).stdout
    assert said.startswith("5 is ")
    assert said == isoflop(*asked, 3).stdout
    assert said != isoflop(*asked, 4).stdout


def test_prompts_of_all_lengths_are_one_batch(trained):
    """One letter, the context's length and more than it, one of them from standard input."""
    folder, *_ = trained
    long = "13 is an odd number\n" * 20
    asked = ("--prompt", "a", "--prompt", "-", "--prompt", "b" * 64, "--temperature", "0")
    result = isoflop("generate", folder, *asked, "--tokens", "9", "--json", stdin=long)
    answers = json.loads(result.stdout)
    assert [a["prompt"] for a in answers] == ["a", long, "b" * 64]
    alone = isoflop("generate", folder, "--prompt", "-", *asked[-2:], "--tokens", "9", stdin=long)
    assert alone.stdout == long + answers[1]["text"] + "\n"


def test_text_ends_with_its_document_unless_asked_on(trained, tmp_path):
    """A model whose likeliest token is always the separator writes nothing, or nothing else."""
    folder, *_ = trained
    model = BasicsTransformerLM.from_pretrained(folder)
    with torch.no_grad():
        model.lm_head.weight.zero_()  # all alike: the likeliest is the first, the separator
    model.save_pretrained(tmp_path)
    for name in ("tokenizer.txt",):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    asked = ("generate", tmp_path, "--prompt", "a", "--temperature", "0", "--tokens", "5", "--json")
    assert json.loads(isoflop(*asked).stdout)[0]["text"] == ""
    assert json.loads(isoflop(*asked, "--past-end").stdout)[0]["text"] == "\0" * 5


@pytest.fixture
def course_folder(tmp_path):
    """A checkpoint as the course writes it: two files, names with the compiler's prefix."""
    sizes = {
        "vocab_size": 300, "context_length": 16, "d_model": 8, "num_layers": 1, "num_heads": 2,
        "d_ff": 32,
    }  # fmt: skip
    state = BasicsTransformerLM(**sizes).state_dict()
    (tmp_path / "model_config.json").write_text(json.dumps(sizes))
    torch.save({f"_orig_mod.{name}": w for name, w in state.items()}, tmp_path / "model.pt")
    return tmp_path


def test_a_course_checkpoint_writes_with_a_tokenizer_named(course_folder, tmp_path):
    from data.tokenizer import train_byte_pairs

    coder = train_byte_pairs(["the cat sat on the mat " * 50], 280)
    file = tmp_path / "mine.json"
    file.write_text(coder.serialized)
    for name in ("byte", file):
        result = isoflop("generate", course_folder, "--tokenizer", name, "--prompt", "the cat")
        assert result.stdout.startswith("the cat"), result.exception


OWN = """
from torch import nn

class Own(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.table = nn.Embedding(shape.vocab_size, shape.d_model)
        self.up = nn.Linear(shape.d_model, 4 * shape.d_model)
        self.head = nn.Linear(4 * shape.d_model, shape.vocab_size)

    def forward(self, tokens):
        return self.head(self.up(self.table(tokens)).relu())

build = Own
"""


def test_a_model_of_ones_own_writes(sweep_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "a_model_of_mine.py").write_text(OWN)
    own = ("-s", 'model="a_model_of_mine:build"')
    result = isoflop("train", sweep_file, *ASKED, "--dir", "out", *own)
    assert result.exit_code == 0, result.output
    prompts = ("--prompt", "the", "--prompt", "a" * 200)
    result = isoflop("generate", "out", *prompts, "--tokens", 40, "--temperature", 0, "--json")
    assert result.exit_code == 0, result.exception
    texts = [row["text"] for row in json.loads(result.stdout)]
    import a_model_of_mine

    found = a_model_of_mine.build(SimpleNamespace(vocab_size=256, d_model=16))
    found.load_state_dict(weights(tmp_path / "out"))
    token, expected = ord("e"), b""
    for _ in range(len(texts[0])):
        token = found(torch.tensor([[token]]))[0, -1].argmax().item()
        expected += bytes([token])
    assert texts[0] == expected.decode("utf-8", "replace")
    (tmp_path / "a_model_of_mine.py").unlink()
    sys.modules.pop("a_model_of_mine")
    error = isoflop("generate", "out").exception
    assert isinstance(error, ConfigError)
    assert "cannot import `a_model_of_mine`" in str(error)


def test_what_hinders_writing_is_told(course_folder, trained, tmp_path):
    folder, *_ = trained
    large = tmp_path / "large.json"
    from data.tokenizer import train_byte_pairs

    text = " ".join(f"{a}{b}{c}" for a in "abcdefgh" for b in "ijklmnop" for c in "qrstuvwx")
    large.write_text(train_byte_pairs([text * 3], 400).serialized)
    cases = [
        ((course_folder,), "no tokenizer beside the model; name it: --tokenizer byte"),
        ((course_folder, "--tokenizer", large), "knows 300 tokens, the tokenizer 400"),
        ((course_folder, "--tokenizer", "absent"), "neither `byte` nor a readable tokenizer.json"),
        ((folder, "--prompt", ""), "--prompt: is empty"),
        ((tmp_path / "none",), "no trained model here"),
    ]
    for arguments, said in cases:
        error = isoflop("generate", *arguments).exception
        assert isinstance(error, ConfigError), error
        assert said in str(error)
    assert isoflop("generate", folder, "--top-p", "1.5").exit_code == 2


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("model_config.json", b"{"),
        ("model_config.json", b'{"d_model": 8}'),
        ("model.pt", b"no torch file"),
        ("model.pt", b""),
    ],
)
def test_a_damaged_model_is_told(course_folder, file, content):
    (course_folder / file).write_bytes(content)
    error = isoflop("generate", course_folder, "--tokenizer", "byte").exception
    assert isinstance(error, ConfigError), repr(error)
    assert "the model cannot be loaded" in str(error)
