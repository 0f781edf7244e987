"""The README's commands exist, its links lead somewhere, its sweep is one."""

import ast
import re
import shlex
import subprocess
import sys
import tomllib

import pytest

from tuner.config import parse

ROOMS = ["analysis", "data", "model", "tests", "tuner"]
READMES = [
    "README.md",
    "README.zh.md",
    *(f"{room}/README.md" for room in ROOMS),
    "cluster/service/README.md",
]


def blocks(root, language):
    text = (root / "README.md").read_text()
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def commands(root):
    lines = "\n".join(blocks(root, "sh")).splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.strip()]


def test_every_command_is_one(root):
    targets = (root / "Makefile").read_text()
    verbs = set()
    for program, verb, *_ in commands(root):
        if program == "make":
            assert f"\n{verb}:" in targets
        else:
            assert program == "isoflop"
            verbs.add(verb)
    assert verbs >= {"plan", "run", "status", "resume", "fit", "predict", "report", "doctor"}


def test_every_command_line_parses(root):
    import typer
    from click.exceptions import UsageError

    from tuner.cli import app

    group = typer.main.get_command(app)
    for program, verb, *arguments in commands(root):
        if program == "isoflop":
            command = group.commands[verb]
            try:
                command.make_context(verb, list(arguments), resilient_parsing=False)
            except UsageError as error:
                raise AssertionError(f"isoflop {verb} {arguments}: {error.message}") from error


def test_the_plans_in_the_readme_run(root):
    lines = [c for c in commands(root) if c[:2] == ["isoflop", "plan"]]
    said = [
        subprocess.run(
            [sys.executable, "-m", "tuner.cli", *line[1:]],
            check=True, capture_output=True, text=True, cwd=root,
        ).stdout
        for line in lines
    ]  # fmt: skip
    assert "At most 8.1 hours of one slot, about 4.2 hours with pruning" in " ".join(
        said[-1].split()
    )  # as the text beside it says


def test_the_sweep_in_the_readme_is_one(root):
    (text,) = blocks(root, "toml")
    assert parse(tomllib.loads(text), place="README.md").name == "mine"


@pytest.mark.parametrize("name", READMES)
def test_links_lead_somewhere(root, name):
    page = root / name
    links = re.findall(r"\]\(([^)#]+)\)", page.read_text())
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert not missing


def test_what_an_unsound_answer_says_is_quoted(root):
    """Each row begins with a message in the words of some text of the program, … for its values."""
    page = (root / "README.md").read_text().split("## When the answer is not sound")[1]
    rows = re.findall(r"^\| (.*?) \|", page.split("\n## ")[0], flags=re.MULTILINE)
    paths = [*(root / "tuner").glob("*.py"), *(root / "analysis").glob("*.py")]
    said = [text for path in paths for text in texts(ast.parse(path.read_text()))]
    quotes = [row for row in rows if row not in {"it says", "---"}]
    assert len(quotes) > 4
    for quote in quotes:
        words = ".*".join(re.escape(part.strip()) for part in quote.split("…"))
        assert any(re.search(words, text) for text in said), quote


def texts(tree):
    """Each text of a module, … for the values put into it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(
                piece.value if isinstance(piece, ast.Constant) else "…" for piece in node.values
            )


def sections(path):
    """Title, commands, links and number of table rows of each section, in order."""
    parts = re.split(r"^## ", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return [
        (
            part.splitlines()[0],
            re.findall(r"```.*?```", part, flags=re.DOTALL),
            {link for link in re.findall(r"\]\(([^)]+)\)", part) if not link.startswith("README")},
            len(re.findall(r"^\|", part, flags=re.MULTILINE)),
            len(re.findall(r"^- ", part, flags=re.MULTILINE)),
        )
        for part in parts
    ]


def test_the_translation_says_what_the_readme_says(root):
    """Commands, links, table rows and bullets, section by section; the words are for people."""
    pairs = list(zip(sections(root / "README.md"), sections(root / "README.zh.md"), strict=True))
    differing = [
        f"{english[0]} / {chinese[0]}" for english, chinese in pairs if english[1:] != chinese[1:]
    ]
    assert not differing, f"bring README.zh.md up to README.md in: {differing}"
