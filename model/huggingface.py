"""Causal language models of Hugging Face's `transformers` (the extra `huggingface`) as our models.

`model = "model.huggingface:gpt2"` or `:llama` in a sweep file; any other architecture by a function
of one's own that gives `from_config` its configuration.
"""

from torch import Tensor, nn
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, PretrainedConfig
from typing_extensions import override

from model.shape import Shape


class Logits(nn.Module):
    """A `transformers` model that gives its logits alone and keeps no cache."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    @override
    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (batch, time) to logits (batch, time, vocab_size)."""
        return self.network(input_ids=tokens, use_cache=False).logits


def from_config(config: PretrainedConfig) -> nn.Module:
    """The model that `config` describes, its first values as `transformers` draws them."""
    # torch's own attention: what a config asks for by default need not be installed.
    return Logits(AutoModelForCausalLM.from_config(config, attn_implementation="sdpa"))


def gpt2(shape: Shape) -> nn.Module:
    """GPT-2 in the size of `shape`, its head tied as published, without dropout."""
    return from_config(
        GPT2Config(
            vocab_size=shape.vocab_size,
            n_positions=shape.context_length,
            n_embd=shape.d_model,
            n_layer=shape.num_layers,
            n_head=shape.num_heads,
            n_inner=shape.d_ff,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            bos_token_id=None,
            eos_token_id=None,
        )
    )


def llama(shape: Shape) -> nn.Module:
    """Llama in the size of `shape`, its head untied."""
    return from_config(
        LlamaConfig(
            vocab_size=shape.vocab_size,
            max_position_embeddings=shape.context_length,
            hidden_size=shape.d_model,
            num_hidden_layers=shape.num_layers,
            num_attention_heads=shape.num_heads,
            intermediate_size=shape.d_ff,
            bos_token_id=None,
            eos_token_id=None,
        )
    )
