"""Text from a model, and the faults of the course's `generate` that ours must not have."""

import itertools

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from model.generate import Remembering, Sampling, Windows, generate
from model.transformer import BasicsTransformerLM

SIZES = {
    "vocab_size": 50, "context_length": 12, "d_model": 24, "num_layers": 2, "num_heads": 3,
    "d_ff": 40,
}  # fmt: skip


def model(**variant):
    torch.manual_seed(1)
    return BasicsTransformerLM(**SIZES, **variant).eval()


@pytest.mark.parametrize("length, batch", [*itertools.product((1, 11, 12, 30), (1, 3))])
def test_generate_adds_the_asked_number_of_tokens_past_any_context(length, batch):
    prompts = torch.randint(0, 50, (batch, length))
    assert model().generate(prompts, 20).shape == (batch, 20)
    assert model().generate(prompts[0], 0).shape == (1, 0)


def test_generate_is_greedy_at_zero_temperature_and_with_top_one():
    decoder = model()
    tokens = torch.tensor([[3, 4, 5]])
    expected = tokens
    for _ in range(5):
        expected = torch.cat((expected, decoder(expected)[:, -1].argmax(-1, keepdim=True)), 1)
    assert torch.equal(decoder.generate(tokens, 5, temperature=0), expected[:, 3:])
    assert torch.equal(decoder.generate(tokens, 5, top_k=1), expected[:, 3:])


def test_top_k_never_leaves_the_likeliest():
    decoder = model()
    prompts = torch.full((400, 1), 3)
    allowed = decoder(prompts[:1])[0, -1].topk(4).indices
    seen = decoder.generate(prompts, 1, top_k=4, temperature=5.0).unique()
    assert set(seen.tolist()) == set(allowed.tolist())
    assert len(decoder.generate(prompts, 1, temperature=5.0).unique()) > 4


def test_a_sequence_that_has_ended_stays_ended_and_the_others_go_on():
    decoder = model()
    torch.manual_seed(2)
    new = decoder.generate(torch.full((30, 1), 3), 60, eos_token_id=7)
    ended = (new == 7).cumsum(dim=1) > 0
    assert 0 < ended[:, -2].sum() < 30
    assert (new[ended] == 7).all()
    only = decoder(torch.tensor([[3]]))[0, -1].argmax().item()
    assert decoder.generate(torch.tensor([[3]]), 9, top_k=1, eos_token_id=only).tolist() == [[only]]


def test_generate_puts_dropout_off_and_the_mode_back():
    decoder = model(attn_pdrop=0.5, residual_pdrop=0.5).train()
    tokens = torch.tensor([[3, 4, 5]])
    greedy = [decoder.generate(tokens, 8, temperature=0) for _ in range(2)]
    assert torch.equal(*greedy)
    assert torch.equal(greedy[0], model().generate(tokens, 8, temperature=0))
    assert decoder.training


def test_every_fault_is_named():
    with pytest.raises(ValueError, match=r"at least one token.*max_new_tokens"):
        model().generate(torch.empty(1, 0, dtype=torch.long), -1)
    with pytest.raises(ValueError, match=r"temperature.*top_k.*top_p"):
        Sampling(temperature=-1.0, top_k=0, top_p=0.0)


class Fixed(nn.Module):
    """The same chances after every token."""

    def __init__(self, chances):
        super().__init__()
        self.logits = torch.tensor(chances).log()

    def forward(self, tokens):
        return self.logits.expand(*tokens.shape, -1)


CHANCES = [0.05, 0.4, 0.1, 0.3, 0.15]


@pytest.mark.parametrize(
    ("top_k", "top_p", "allowed"),
    [
        (None, 0.3, {1}),
        (None, 0.6, {1, 3}),
        (None, 0.75, {1, 3, 4}),
        (None, 1.0, {0, 1, 2, 3, 4}),
        (2, 0.5, {1}),  # .4 of the .7 that two tokens have is more than half
        (3, 0.7, {1, 3}),
        (2, 1.0, {1, 3}),
    ],
)
def test_top_p_takes_the_fewest_tokens_that_have_the_probability(top_k, top_p, allowed):
    sampling = Sampling(top_k=top_k, top_p=top_p)
    prompts = torch.zeros(4000, 1, dtype=torch.long)
    drawn = generate(
        Fixed(CHANCES), prompts, 1, context_length=4, sampling=sampling,
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    assert set(drawn.unique().tolist()) == allowed
    share = torch.bincount(drawn[:, 0], minlength=5) / 4000
    wanted = torch.tensor([c if i in allowed else 0.0 for i, c in enumerate(CHANCES)])
    torch.testing.assert_close(share, wanted / wanted.sum(), atol=0.03, rtol=0)


def test_temperature_sharpens_and_flattens():
    prompts = torch.zeros(4000, 1, dtype=torch.long)
    for temperature in (0.5, 2.0):
        drawn = generate(
            Fixed(CHANCES), prompts, 1, context_length=4,
            sampling=Sampling(temperature=temperature),
            generator=torch.Generator().manual_seed(0),
        )  # fmt: skip
        wanted = torch.tensor(CHANCES) ** (1 / temperature)
        share = torch.bincount(drawn[:, 0], minlength=5) / 4000
        torch.testing.assert_close(share, wanted / wanted.sum(), atol=0.03, rtol=0)


@pytest.mark.parametrize("variant", [{}, {"positions": "rotary"}])
def test_prompts_of_unlike_lengths_are_continued_as_if_each_were_alone(variant):
    """Lengths below, at and beyond the context, and new tokens that push each across it."""
    decoder = model(**variant)
    prompts = [torch.randint(0, 50, (length,)) for length in (1, 5, 11, 12, 13, 30)]
    together = decoder.generate(prompts, 9, temperature=0)
    alone = [decoder.generate(prompt, 9, temperature=0)[0] for prompt in prompts]
    assert torch.equal(together, torch.stack(alone))


@pytest.mark.parametrize(
    "variant", [{}, {"positions": "rotary", "qk_norm": True, "ffn": "swiglu"}], ids=str
)
def test_what_is_remembered_gives_the_logits_of_reading_all_again(variant):
    """Rows of unlike lengths, some beyond the context, each until the context has slid past it."""
    decoder = model(**variant).double()
    torch.manual_seed(3)
    start = torch.tensor([1, 5, 11, 12, 13, 30])
    tokens = torch.randint(0, 50, (6, 60))
    remembering, windows = Remembering(decoder, 12), Windows(decoder, 12)
    with torch.no_grad():
        for new in range(20):
            lengths = start + new
            torch.testing.assert_close(remembering(tokens, lengths), windows(tokens, lengths))


class Read:
    """How many tokens each call of a model reads, the width of its input."""

    def __init__(self, decoder):
        self.widths = []
        for name in ("trunk", "extend"):
            monitored = getattr(decoder, name)
            setattr(decoder, name, lambda tokens, *rest, f=monitored: self.read(f, tokens, *rest))

    def read(self, call, tokens, *rest):
        self.widths.append(tokens.shape[1])
        return call(tokens, *rest)


def test_each_token_is_read_once_until_the_context_is_full():
    decoder = model()
    read = Read(decoder)
    decoder.generate(torch.zeros(2, 4, dtype=torch.long), 11)
    assert read.widths == [4, *[1] * 8, 12, 12]  # four and eight fill the context of twelve


def test_a_batch_ends_when_its_last_sequence_has():
    """Greedy rows end at unlike steps; the batch is as long as the longest of them."""
    decoder = model()
    prompts = torch.arange(30)[:, None]
    free = decoder.generate(prompts, 40, temperature=0)
    end = free[:, 3:].flatten().mode().values.item()
    first = [(row == end).nonzero()[0].item() if (row == end).any() else None for row in free]
    ending = [i for i, place in enumerate(first) if place is not None]
    assert len({first[i] for i in ending}) > 1
    stopped = decoder.generate(prompts[ending], 40, temperature=0, eos_token_id=end)
    assert stopped.shape[1] == max(first[i] for i in ending) + 1
    for row, i in zip(stopped, ending, strict=True):
        assert torch.equal(row[: first[i] + 1], free[i, : first[i] + 1])
        assert (row[first[i] :] == end).all()


def test_a_generator_fixes_the_text_and_leaves_the_global_one_alone():
    prompts = torch.zeros(3, 2, dtype=torch.long)
    decoder = model()
    state = torch.random.get_rng_state()
    one, other, third = (
        decoder.generate(prompts, 20, generator=torch.Generator().manual_seed(seed))
        for seed in (0, 0, 1)
    )
    assert torch.equal(one, other)
    assert not torch.equal(one, third)
    assert torch.equal(state, torch.random.get_rng_state())


class Made(TorchDispatchMode):
    """Names of the operators that make tensors out of nothing."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if not any(isinstance(leaf, torch.Tensor) for leaf in tree_leaves(args)):
            self.names.add(str(function))
        return function(*args, **kwargs or {})


@pytest.mark.parametrize("variant", [{}, {"positions": "rotary", "qk_norm": True}])
def test_no_layer_builds_a_mask_or_a_table_anew(variant):
    """The course's class rebuilds its causal mask on the host in every layer."""
    decoder = model(**variant)
    tokens = torch.zeros(2, 12, dtype=torch.long)
    with Made() as made:
        decoder(tokens)
    assert not made.names
    with Made() as made:
        torch.ones(3, 3).triu(1)
    assert made.names  # such a mask would be seen
