"""The command: every verb, every message a person can get from it, and what it does not load."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from tuner import doubts, simulate
from tuner.cli import app
from tuner.config import load
from tuner.terminal import measured_file
from tuner.throughput import Measured


def isoflop(*arguments, cwd=None):
    """The command in a process of its own, as a person runs it."""
    command = [sys.executable, "-m", "tuner.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False)


def invoke(*arguments):
    """The command in this process; its result must be a success."""
    result = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result


@pytest.fixture(scope="module")
def law(root):
    return root / "tuner" / "sweeps" / "law.toml"


@pytest.fixture(scope="module")
def simulated(law, tmp_path_factory):
    """A finished sweep's folder."""
    from tuner import plan, provenance, sweep
    from tuner.ledger import Ledger

    folder = tmp_path_factory.mktemp("cli") / "law"
    folder.mkdir()
    config = load(law, ["search.trials=2"])
    sweep.write(config, folder)
    ledger = Ledger(folder / "ledger.db")
    found = provenance.Provenance(
        commit="c", torch="", corpus="", tokenizer="", vocab_size=plan.vocabulary(config),
        train_tokens=0, bytes_per_token=0.0,
    )  # fmt: skip
    provenance.settle(ledger, found)
    ledger.close()
    simulate.simulate(config, folder, slots=4)
    return folder


@pytest.mark.parametrize("arguments", [("--help",), ("plan", "--help"), ("plan", "LAW")])
def test_light_commands_load_neither_torch_nor_ray(law, arguments):
    arguments = [str(law) if a == "LAW" else a for a in arguments]
    code = (
        "import sys\nfrom tuner.cli import main\n"
        f"sys.argv = ['isoflop', *{arguments!r}]\n"
        "try: main()\nexcept SystemExit as end: assert not end.code, end.code\n"
        "assert not {'torch', 'ray', 'optuna', 'pandas'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_every_command_has_an_example():
    verbs = [command.callback for command in app.registered_commands]
    for verb in verbs:
        assert f"Example: isoflop {verb.__name__}" in verb.__doc__


def test_plan_as_json_carries_the_table_s_numbers(law):
    counted = json.loads(invoke("plan", law, "--json").stdout)
    assert counted["trials"] == sum(b["trials"] for b in counted["budgets"]) == 108
    assert set(counted["budgets"][0]) >= {"budget", "shapes", "params", "tokens", "steps", "flops"}
    assert "1e+17" in invoke("plan", law).stdout


def test_status_and_export(simulated, tmp_path):
    standing = json.loads(invoke("status", simulated, "--json").stdout)
    assert standing["ended"] == sum(b["completed"] + b["pruned"] for b in standing["budgets"])
    assert "pruned" in invoke("status", simulated).stdout
    paths = invoke("export", simulated, "-o", tmp_path / "t.csv").stdout.split()
    assert [os.path.exists(path) for path in paths] == [True] * 3  # noqa: PTH110


def test_status_says_what_is_unsound_once_the_sweep_is_done(simulated, monkeypatch):
    from tuner.ledger import END, Ledger

    doubted = "budget 1e+17: the minimum, 5x256, has 3 completed sizes below and 0 above"
    monkeypatch.setattr("tuner.soundness.faults", lambda *_: [doubted])
    ledger = Ledger(simulated / "ledger.db")
    for end, said in (("", False), ("interrupted", False), ("done", True)):
        ledger.write_fact(END, end)
        assert (f"\n! {doubted}\n" in invoke("status", simulated).stdout) == said
        assert (
            doubted in json.loads(invoke("status", simulated, "--json").stdout)["unsound"]
        ) == said
    ledger.close()


def test_watching_ends_with_the_sweep_s_run(simulated):
    from tuner.ledger import END, Ledger

    ledger = Ledger(simulated / "ledger.db")
    ledger.write_fact(END, "")
    command = [sys.executable, "-m", "tuner.cli", "status", str(simulated)]
    options = ["--watch", "--json", "--every", "0.05"]
    with subprocess.Popen([*command, *options], stdout=subprocess.PIPE, text=True) as running:
        seen = [json.loads(running.stdout.readline()) for _ in range(2)]
        ledger.write_fact(END, "done")
        seen += [json.loads(line) for line in running.stdout]
    assert running.returncode == 0
    assert [look["end"] for look in seen[:2]] == ["", ""]
    assert seen[-1]["end"] == "done"
    said = invoke("status", simulated, "--watch").stdout
    assert said.count("trials ended") == 1
    ledger.close()


def on_read_only_storage(source, script):
    """A script in which `$1` is a read-only copy of `source`; skips where that cannot be made."""
    mount = (
        'mount -t tmpfs none "$1" && cp "$2"/ledger.db* "$2"/sweep.toml "$1" && '
        'mount -o remount,ro "$1" || exit 99\n'
    )
    place = source.parent / "read-only"
    place.mkdir(exist_ok=True)
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount + script]
    if shutil.which("unshare") is None:
        pytest.skip("no unshare here")
    result = subprocess.run(
        [*command, sys.executable, place, source], capture_output=True, text=True, check=False
    )
    if result.returncode == 99 or "unshare" in result.stderr:
        pytest.skip(f"no mount of one's own here: {result.stderr}")
    return result


def test_one_can_look_at_read_only_storage(simulated):
    result = on_read_only_storage(simulated, '"$0" -m tuner.cli status "$1" --json')
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == json.loads(invoke("status", simulated, "--json").stdout)


def test_a_sweep_on_read_only_storage_is_refused(simulated):
    result = on_read_only_storage(simulated, '"$0" -m tuner.cli resume "$1"')
    assert result.returncode == 2
    assert "cannot be written to (Read-only file system); name another with --dir" in result.stderr


def test_a_folder_that_cannot_be_written_is_refused_at_once(law, tmp_path):
    (tmp_path / "file").write_text("")
    result = isoflop("run", law, "--yes", "--dir", tmp_path / "file" / "sweep")
    assert result.returncode == 2
    assert f"{tmp_path / 'file' / 'sweep'}: cannot be written to (Not a directory)" in result.stderr
    assert "name another with --dir" in result.stderr


def test_fit_draws_its_figures_and_takes_a_width(root, tmp_path):
    table = root / "data" / "isoflops_curves.json"
    plots = tmp_path / "new" / "plots"
    result = invoke(
        "fit", table, "--replicates", 0, "--delta", 0.01, "--at", 1e24, "--figures", plots
    )
    names = {"profiles", "n_opt", "d_opt", "frontier", "disagreement", "loss_surface", "residuals"}
    assert {path.stem for path in plots.iterdir()} == names
    assert all(path.read_text().endswith("</svg>\n") for path in plots.iterdir())
    assert str(plots / "n_opt.svg") in result.stderr
    assert "sum of Huber(0.01) on log loss" in result.stdout
    wrong = CliRunner().invoke(app, ["fit", str(table), "--delta", "0"])
    assert wrong.exit_code == 2


def test_run_and_resume_as_json_carry_status_and_answer(law, simulated, monkeypatch):
    monkeypatch.setattr("tuner.sweep.run", lambda *_, **__: None)  # it has run already
    invoke("export", simulated)
    for words in (("run", law, "-s", "search.trials=2", "--yes", "--dir", simulated),
                  ("resume", simulated)):  # fmt: skip
        told = json.loads(invoke(*words, "--json").stdout)
        standing = json.loads(invoke("status", simulated, "--json").stdout)
        assert told["path"] == str(simulated / "report.html")
        assert told["status"] == standing
        assert told["prediction"]["budget"] == 1e20


def test_a_run_counts_what_is_unsound_once(law, simulated, monkeypatch, tmp_path):
    from tuner.ledger import DONE, END, Ledger

    monkeypatch.setattr("tuner.sweep.run", lambda *_, **__: None)  # it has run already
    folder = shutil.copytree(simulated, tmp_path / "done")
    invoke("export", folder)
    ledger = Ledger(folder / "ledger.db")
    ledger.write_fact(END, DONE)
    ledger.close()
    counted, doubted = [], "budget 1e+17: the minimum has 0 completed sizes above"
    monkeypatch.setattr("tuner.soundness.faults", lambda *_: counted.append(1) or [doubted])
    words = ("run", law, "-s", "search.trials=2", "--yes", "--dir", folder, "--json")
    told = json.loads(invoke(*words).stdout)
    assert len(counted) == 1
    assert told["status"]["unsound"] == [doubted]
    assert told["prediction"]["warnings"][-1] == doubted


def test_every_answer_says_what_the_sweep_doubts(simulated, tmp_path, monkeypatch):
    doubted = ["budget 1e+17: the minimum has 0 completed sizes above"]
    monkeypatch.setattr("tuner.soundness.faults", lambda *_: list(doubted))
    assert doubts.of(simulated) == doubted
    told = json.loads(invoke("predict", simulated, "--budget", "1e20", "--json").stdout)
    assert told["warnings"][-len(doubted) :] == doubted
    page = invoke("report", simulated, "-o", tmp_path / "page.html", "--json")
    (said,) = json.loads(page.stdout)["predictions"]
    assert said["warnings"][-len(doubted) :] == doubted
    assert (tmp_path / "page.html").read_text().count(doubted[0]) == 1


def test_export_fit_predict_report(simulated, tmp_path):
    invoke("export", simulated)
    answer = json.loads(invoke("fit", simulated, "--json", "--at", "1e21").stdout)
    assert {fit["name"] for fit in answer["approaches"]} >= {"argmin", "parabola", "chinchilla"}
    assert "1e+21" in answer["approaches"][0]["n_opt"]
    assert "parabola" in invoke("fit", simulated).stdout
    told = json.loads(invoke("predict", simulated, "--budget", "1e20", "--json").stdout)
    assert told["params"]["low"] < told["params"]["value"] < told["params"]["high"]
    assert told["shape"]["d_model"] % told["shape"]["num_heads"] == 0
    page = tmp_path / "page.html"
    assert str(page) in invoke("report", simulated, "-o", page).stdout
    assert "<svg" in page.read_text()
    assert json.loads((simulated / "fit.json").read_text())["n"] > 0


def test_prepare_a_corpus(text, tmp_path):
    facts = json.loads(invoke("data", "prepare", text, "--dir", tmp_path, "--json").stdout)
    assert facts["vocab_size"] == 256
    assert facts["train_tokens"] > facts["held_out_tokens"] > 0


def test_the_doctor_is_content_here():
    checks = json.loads(invoke("doctor", "--json").stdout)
    assert checks["training"]["value"] > 0
    assert checks["peak"]["value"] > checks["training"]["value"]
    kept = Measured.read(measured_file())
    assert kept.device == checks["device"]["found"]
    assert checks["compiler"]["sound"]  # it trains without one
    assert max(kept.points.values()) == checks["training"]["value"]
    counted = json.loads(invoke("plan", "tuner/sweeps/smoke.toml", "--json").stdout)
    assert counted["throughput"]["source"] == f"isoflop doctor on {kept.date}, {kept.device}"
    assert dict(map(tuple, counted["throughput"]["points"])) == kept.points
    measured_file().unlink()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("plan", "absent.toml"), "absent.toml: no such file. Ready ones: course.toml"),
        (("plan", "LAW", "-s", "search.trails=3"), "Did you mean `search.trials`?"),
        (("plan", "LAW", "-s", "search=5"), "`search` = 5"),
        (("plan", "LAW", "-s", 'data.tokenizer="bpe:0"'), '`data.tokenizer` = "bpe:0"'),
        (
            ("run", "LAW", "-s", "budgets=[]", "--yes"),
            "law.toml: `budgets` is missing. Add it, e.g. budgets = ",
        ),
        (("status", "nowhere"), "nowhere: no sweep here (no ledger.db)"),
        (("resume", "nowhere"), "nowhere: no sweep here (no ledger.db)"),
        (("export", "nowhere"), "nowhere: no sweep here (no ledger.db)"),
        (("fit", "nowhere.csv"), "nowhere.csv"),
        (("predict", "nowhere.csv", "--budget", "1e20"), "nowhere.csv"),
        (("report", "nowhere.csv"), "nowhere.csv"),
        (("fit", "nowhere.csv", "--map", "loss"), "expected THEIRS=OURS"),
        (("data", "prepare", "nowhere"), "nowhere: no such file, folder or pattern"),
        (("generate", "nowhere"), "nowhere: no trained model here"),
        (
            ("train", "LAW", "--size", "big", "--budget", "1e9", "--learning-rate", "1"),
            "--size big: expected layers and width, as 2x32",
        ),
    ],
)
def test_wrong_input_gets_one_clear_line(law, tmp_path, arguments, said):
    result = isoflop(*[law if a == "LAW" else a for a in arguments], cwd=tmp_path)
    assert result.returncode == 2, result.stderr
    assert said in result.stderr
    assert "Traceback" not in result.stderr
    assert not result.stdout
    assert all(line.startswith("isoflop: ") for line in result.stderr.splitlines())


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf"])
@pytest.mark.parametrize(
    "arguments",
    [
        ("predict", "t.csv", "--budget"),
        ("report", "t.csv", "--budget"),
        ("fit", "t.csv", "--at"),
        ("train", "s.toml", "--size", "1x8", "--learning-rate", "1", "--budget"),
        ("train", "s.toml", "--size", "1x8", "--budget", "1e9", "--learning-rate"),
    ],
)
def test_numbers_that_must_be_positive(arguments, value):
    result = CliRunner().invoke(app, [*arguments, value])
    assert result.exit_code == 2
    assert "is no positive, finite number" in result.output


def test_a_cap_that_buys_nothing_is_refused(law):
    result = isoflop("plan", law, "-s", "cap.flops=1")
    assert result.returncode == 3
    assert "buys no trial at the smallest budget" in result.stderr


def test_a_ledger_that_is_none(tmp_path):
    (tmp_path / "ledger.db").write_text("this is no database, however long it may be" * 100)
    result = isoflop("status", tmp_path)
    assert result.returncode == 2
    assert "ledger.db: file is not a database" in result.stderr


def test_the_hint_carries_the_settings(law):
    result = isoflop("plan", law, "-s", "search.trials=2")
    assert f"next: isoflop run {law} -s search.trials=2" in result.stderr


def test_somebody_else_s_model_py_is_named(tmp_path):
    (tmp_path / "model.py").write_text("raise SystemExit('wrong module')")
    code = "import sys; sys.path.insert(0, '.'); from tuner.cli import main; main()"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert result.returncode == 2
    assert f"{tmp_path / 'model.py'}: shadows isoflop's own `model`" in result.stderr
