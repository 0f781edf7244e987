"""Every row of the course's description, asked by a client that was written from it alone."""

from urllib.parse import quote

import pytest
import requests
from course_client import CourseClient
from serving import COURSE, KEY, serving

from cluster.service.settings import load
from model.recipe import rate
from tuner import space
from tuner.backends.train import recipe
from tuner.question import Question


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("service"), keys=(KEY, "other", "poor", "silent")) as made:
        yield made


@pytest.fixture
def client(service):
    return CourseClient(service[0], KEY)


def test_a_configuration_is_answered_and_charged(client):
    response = client.loss(**COURSE)
    assert response.status_code == 200
    assert set(response.json()) == {"loss", "total_flops_used"}
    assert 1.69 < response.json()["loss"] < 11
    assert response.json()["total_flops_used"] == 10**16


def test_asked_again_it_is_free_and_the_same(client):
    first, again = client.loss(**COURSE).json(), client.loss(**COURSE).json()
    assert first == again
    assert client.total_flops_used().json() == again["total_flops_used"]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("d_model", 9999, "d_model must be in range [64, 1024], got 9999"),
        ("d_model", 63, "d_model must be in range [64, 1024], got 63"),
        ("num_layers", 1, "num_layers must be in range [2, 24], got 1"),
        ("num_layers", 25, "num_layers must be in range [2, 24], got 25"),
        ("num_heads", 1, "num_heads must be in range [2, 16], got 1"),
        ("num_heads", 17, "num_heads must be in range [2, 16], got 17"),
        ("batch_size", 64, "batch_size must be one of [128, 256], got 64"),
        ("learning_rate", 9e-5, "learning_rate must be in range [0.0001, 0.001], got 9e-05"),
        ("learning_rate", 2e-3, "learning_rate must be in range [0.0001, 0.001], got 0.002"),
        ("train_flops", 2 * 10**13, "train_flops must be one of [10000000000000, "),
        ("train_flops", 3 * 10**18, "train_flops must be one of [10000000000000, "),
    ],
)
def test_out_of_range_is_refused_and_free(client, name, value, message):
    client.loss(**COURSE)
    before = client.total_flops_used().json()
    response = client.loss(**COURSE | {name: value})
    assert response.status_code == 404
    assert list(response.json()) == ["message"]
    assert response.json()["message"].startswith(message)
    assert client.total_flops_used().json() == before


def test_the_ends_of_every_range_are_allowed(client):
    smallest = {"d_model": 64, "num_layers": 2, "num_heads": 2, "learning_rate": 1e-4}
    largest = {"d_model": 1024, "num_layers": 24, "num_heads": 16, "batch_size": 256}
    assert client.loss(**COURSE | smallest | {"train_flops": 6 * 10**13}).status_code == 200
    assert client.loss(**COURSE | largest | {"train_flops": 6 * 10**15}).status_code == 200


def test_heads_that_do_not_divide_the_width_are_taken_where_nothing_is_trained(client):
    assert client.loss(**COURSE | {"num_heads": 3, "train_flops": 6 * 10**15}).status_code == 200


def test_a_budget_that_buys_no_step_is_refused_and_free(client):
    client.loss(**COURSE)
    before = client.total_flops_used().json()
    tiny = {"d_model": 1024, "num_layers": 24, "train_flops": 10**13}
    response = client.loss(**COURSE | tiny)
    assert response.status_code == 404
    assert "buys no whole step" in response.json()["message"]
    assert client.total_flops_used().json() == before


def test_beyond_the_budget_is_refused_and_free(service):
    client = CourseClient(service[0], "poor")
    assert client.loss(**COURSE | {"train_flops": 10**18}).status_code == 200
    assert client.loss(**COURSE | {"train_flops": 6 * 10**17}).status_code == 200
    response = client.loss(**COURSE | {"train_flops": 6 * 10**17, "d_model": 256})
    assert response.status_code == 422
    assert "budget" in response.json()["message"]
    assert client.total_flops_used().json() == 16 * 10**17
    # What is left may still be spent, and what was paid for asked again.
    assert client.loss(**COURSE | {"train_flops": 3 * 10**17, "d_model": 256}).status_code == 200
    assert client.loss(**COURSE | {"train_flops": 10**18}).status_code == 200


def test_total_of_a_key_that_asked_nothing_is_refused(service):
    response = CourseClient(service[0], "silent").total_flops_used()
    assert response.status_code == 422
    assert response.json()["message"]
    assert CourseClient(service[0], "silent").previous_runs() == []


@pytest.mark.parametrize("address", ["loss", "total_flops_used", "previous_runs"])
@pytest.mark.parametrize("key", ["nobody", "", KEY.lower(), KEY + "x"])
def test_an_unknown_key_is_refused(service, address, key):
    response = CourseClient(service[0], key).get(address, **COURSE)
    assert response.status_code == 422
    assert response.json() == {"message": f"Invalid API key provided: {key}"}


def test_a_missing_key_is_refused(service):
    response = requests.get(f"{service[0]}/loss", params=COURSE, timeout=60)
    assert response.status_code == 422
    assert response.json() == {"message": "api_key is missing"}


def test_a_missing_or_strange_parameter_is_refused(client):
    without = {name: value for name, value in COURSE.items() if name != "d_model"}
    for asked in (without, COURSE | {"d_model": "wide"}, COURSE | {"num_layers": 2.5}):
        response = client.loss(**asked)
        assert response.status_code == 422
        assert list(response.json()) == ["message"]


@pytest.mark.parametrize("written", ["1e16", "1e+16", "10000000000000000.0"])
def test_flops_may_be_written_as_a_float(client, written):
    assert client.loss(**COURSE | {"train_flops": written}).json() == client.loss(**COURSE).json()


def test_a_key_survives_being_encoded(service, client):
    total = client.total_flops_used().json()
    for encoded in (quote(KEY, safe=""), quote(KEY, safe="/=@").replace("%20", "+")):
        response = requests.get(f"{service[0]}/total_flops_used?api_key={encoded}", timeout=60)
        assert response.json() == total


def test_a_bare_plus_arrives_as_a_space_and_the_answer_shows_it(service):
    raw = KEY.replace(" ", "%20")  # "+" left as it is, as students wrote it
    response = requests.get(f"{service[0]}/total_flops_used?api_key={raw}", timeout=60)
    assert response.json()["message"].endswith(KEY.replace("+", " "))


def test_previous_runs_come_in_the_order_they_were_asked(service):
    client = CourseClient(service[0], "other")
    widths = [512, 64, 256, 128]
    losses = [client.loss(**COURSE | {"d_model": width}).json()["loss"] for width in widths]
    client.loss(**COURSE | {"d_model": 512})
    told = client.previous_runs()
    assert told == [
        COURSE | {"d_model": width, "loss": loss}
        for width, loss in zip(widths, losses, strict=True)
    ]
    assert all(type(run["train_flops"]) is int for run in told)


def test_two_keys_pay_each_for_itself_and_hear_the_same(service):
    one, other = (CourseClient(service[0], key) for key in (KEY, "silent"))
    asked = COURSE | {"d_model": 192, "train_flops": 3 * 10**13}
    assert one.loss(**asked).json()["loss"] == other.loss(**asked).json()["loss"]
    assert other.total_flops_used().json() == 3 * 10**13


def test_the_recipe_is_the_courses():
    settings = load("course")
    question = Question(
        budget=1e16, size=(4, 128), learning_rate=1e-3, number=0, seed=0, batch_size=128
    )
    trial = space.trial(settings.sweep, question, vocab_size=32_000)
    told = recipe(settings.sweep, trial, "float32")
    assert [rate(step, 100, told) for step in (0, 50)] == pytest.approx([1.0, 0.55])
    assert rate(100, 100, told) == pytest.approx(0.1)
    assert (told.weight_decay, told.grad_clip, told.dropout) == (0.01, 1.0, 0.1)
    assert (told.optimizer, told.parametrization) == ("adamw", "standard")
    shape = trial.shape
    assert (shape.positions, shape.norm, shape.ffn) == ("learned", "layernorm", "gelu")
    assert (shape.d_ff, shape.context_length, shape.tied_head) == (512, 512, False)
