"""A small corpus of text, made once."""

import random

import pytest

from data.prepare import prepare

WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "lazy", "dogs", "é", "ü", "漢字"]


def _write_documents(folder, count, seed=0, words=400):
    """`count` files of pseudo-text, each different."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(seed)
    for number in range(count):
        text = f"document {seed}-{number}\n" + " ".join(rng.choices(WORDS, k=words)) + "\n"
        (folder / f"{seed}-{number:04}.txt").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def write_documents():
    return _write_documents


@pytest.fixture(scope="session")
def text_folder(tmp_path_factory):
    return _write_documents(tmp_path_factory.mktemp("text"), 120)


@pytest.fixture(scope="session")
def corpus(text_folder, tmp_path_factory):
    return prepare(str(text_folder), tmp_path_factory.mktemp("corpora"), held_out_share=0.2)
