"""The decoder against torch's own modules, its folder, and the faults it must not have."""

import json

import pytest
import torch
from torch import nn
from torch.nn.functional import gelu

from model.shape import Shape
from model.transformer import BasicsTransformerLM, rotate

SIZES = {
    "vocab_size": 50,
    "context_length": 12,
    "d_model": 24,
    "num_layers": 2,
    "num_heads": 3,
    "d_ff": 40,
}
MODERN = {
    "ffn": "swiglu",
    "norm": "rmsnorm",
    "positions": "rotary",
    "qk_norm": True,
    "tied_head": True,
}


def model(**variant):
    torch.manual_seed(1)
    return BasicsTransformerLM(**SIZES, **variant).eval()


def course_weights():
    """A state dict in the course's format, whatever our class may call its weights."""
    generator = torch.Generator().manual_seed(3)
    d, ff = SIZES["d_model"], SIZES["d_ff"]
    layer = {
        "attn.in_proj_weight": (3 * d, d),
        "attn.out_proj.weight": (d, d),
        "ln1.weight": (d,),
        "ffn.w1.weight": (ff, d),
        "ffn.w1.bias": (ff,),
        "ffn.w2.weight": (d, ff),
        "ffn.w2.bias": (d,),
        "ln2.weight": (d,),
    }
    sizes = {
        "token_embeddings.weight": (50, d),
        "position_embeddings.weight": (12, d),
        **{f"layers.{i}.{name}": size for i in range(2) for name, size in layer.items()},
        "ln_final.weight": (d,),
        "lm_head.weight": (50, d),
    }
    return {name: torch.randn(size, generator=generator) / 3 for name, size in sizes.items()}


def torchs_own(weights, tokens):
    """The same decoder wired from `nn.MultiheadAttention` and `nn.LayerNorm`."""
    d = SIZES["d_model"]
    time = tokens.shape[1]
    mask = torch.ones(time, time, dtype=torch.bool).triu(1)

    def normed(x, name):
        ln = nn.LayerNorm(d, bias=False)
        ln.weight.data = weights[name]
        return ln(x)

    x = weights["token_embeddings.weight"][tokens] + weights["position_embeddings.weight"][:time]
    for i in range(2):
        w = {k.removeprefix(f"layers.{i}."): v for k, v in weights.items()}
        attention = nn.MultiheadAttention(d, SIZES["num_heads"], bias=False, batch_first=True)
        attention.load_state_dict(
            {
                "in_proj_weight": w["attn.in_proj_weight"],
                "out_proj.weight": w["attn.out_proj.weight"],
            }
        )
        h = normed(x, f"layers.{i}.ln1.weight")
        x = x + attention(h, h, h, attn_mask=mask, need_weights=False)[0]
        h = normed(x, f"layers.{i}.ln2.weight")
        h = gelu(h @ w["ffn.w1.weight"].T + w["ffn.w1.bias"])
        x = x + h @ w["ffn.w2.weight"].T + w["ffn.w2.bias"]
    return normed(x, "ln_final.weight") @ weights["lm_head.weight"].T


@pytest.mark.parametrize("prefix", ["", "_orig_mod."])
def test_a_course_checkpoint_gives_the_logits_of_torchs_own_modules(tmp_path, prefix):
    weights = course_weights()
    (tmp_path / "model_config.json").write_text(json.dumps(SIZES))
    torch.save({prefix + name: w for name, w in weights.items()}, tmp_path / "model.pt")
    loaded = BasicsTransformerLM.from_pretrained(tmp_path).eval()
    tokens = torch.randint(0, 50, (3, 12), generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        torch.testing.assert_close(loaded(tokens), torchs_own(weights, tokens))


@pytest.mark.parametrize("variant", [{}, MODERN, {"attn_pdrop": 0.1, "residual_pdrop": 0.2}])
def test_saved_and_loaded_is_the_same_model(tmp_path, variant):
    saved = model(**variant)
    saved.save_pretrained(tmp_path / "new" / "folder")
    loaded = BasicsTransformerLM.from_pretrained(tmp_path / "new" / "folder").eval()
    tokens = torch.arange(12)[None]
    assert torch.equal(saved(tokens), loaded(tokens))
    assert loaded.shape == saved.shape
    assert (loaded.attn_pdrop, loaded.residual_pdrop) == (saved.attn_pdrop, saved.residual_pdrop)


def test_a_plain_models_folder_is_in_the_courses_format(tmp_path):
    model().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "model_config.json").read_text())
    assert config == SIZES | {"attn_pdrop": 0.0, "residual_pdrop": 0.0}
    weights = torch.load(tmp_path / "model.pt")
    assert {n: w.shape for n, w in weights.items()} == {
        n: w.shape for n, w in course_weights().items()
    }


def test_a_folder_without_a_model_says_what_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"model_config\.json and no model\.pt"):
        BasicsTransformerLM.from_pretrained(tmp_path)


@pytest.mark.parametrize("variant", [{}, MODERN])
def test_a_token_depends_on_none_after_it_and_on_every_one_before(variant):
    tokens = torch.arange(12)[None]
    decoder = model(**variant)
    reference = decoder(tokens)
    for place in range(12):
        other = tokens.clone()
        other[0, place] = 40
        changed = (decoder(other) != reference).any(dim=-1)[0]
        assert not changed[:place].any()
        assert changed[place:].all()


def test_rotary_attention_sees_distances_not_places():
    decoder = model(positions="rotary")
    heads = torch.randn(1, 1, 12, 8, generator=torch.Generator().manual_seed(1))
    turned = rotate(heads[:, :, :1].expand(-1, -1, 12, -1), decoder.rotation)[0, 0]
    dots = turned @ turned.T
    for distance in range(12):
        diagonal = dots.diagonal(distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal))
    assert not torch.allclose(dots[0, 1], dots[0, 5])


@pytest.mark.parametrize("field", ["attn_pdrop", "residual_pdrop"])
def test_dropout_acts_in_training_and_not_in_eval(field):
    decoder = model(**{field: 0.5})
    tokens = torch.arange(12)[None]
    assert torch.equal(decoder(tokens), decoder(tokens))
    assert torch.equal(decoder(tokens), model()(tokens))
    decoder.train()
    assert not torch.equal(decoder(tokens), decoder(tokens))


def test_from_shape_is_the_constructor():
    shape = Shape(**SIZES, **MODERN)
    assert BasicsTransformerLM.from_shape(shape).shape == shape
