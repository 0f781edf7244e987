"""Plain decoders to draw from."""

from hypothesis import strategies as st

from model.shape import Shape


def plain(longest: int):
    """Shapes with a context of up to `longest` tokens."""
    return st.builds(
        lambda heads, head_size, **sizes: Shape(
            d_model=heads * head_size, num_heads=heads, **sizes
        ),
        heads=st.integers(1, 4),
        head_size=st.sampled_from([2, 3, 8, 16]),
        num_layers=st.integers(1, 3),
        d_ff=st.integers(1, 70),
        vocab_size=st.integers(2, 90),
        context_length=st.integers(1, longest),
    )
