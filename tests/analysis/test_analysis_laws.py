"""Identities every law obeys."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.laws import PUBLISHED, AllocationLaw, LossLaw
from analysis.serving import deployment

loss_laws = st.builds(
    LossLaw,
    E=st.floats(0.5, 3), A=st.floats(10, 1e4), B=st.floats(10, 1e5), alpha=st.floats(0.15, 0.8),
    beta=st.floats(0.15, 0.8), k=st.floats(0.4, 2.5),
)  # fmt: skip
budgets = st.floats(1e12, 1e26)


@given(loss_laws, budgets)
def test_allocation_spends_the_budget(law, budget):
    assert 6 * law.n_opt(budget) * law.d_opt(budget) == pytest.approx(budget, rel=1e-12)


@given(loss_laws, budgets, st.floats(0.8, 1.1), st.floats(0.2, 5))
def test_the_optimum_follows_the_cost(law, budget, exponent, factor):
    """Where C = c · N^m · D, no size that the budget buys is better, and slopes are a and b."""
    law = replace(law, flops_per_param_token=9.0, cost_exponent=exponent)
    n, d = law.n_opt(budget), law.d_opt(budget)
    assert law.flops(n, d) == pytest.approx(budget)
    assert law.reducible(n * factor, law.tokens(budget, n * factor)) >= law.reducible(n, d) * (
        1 - 1e-9
    )
    assert np.log10(law.d_opt(10 * budget) / d) == pytest.approx(law.b)


@given(loss_laws, budgets, st.floats(0.2, 5))
def test_no_neighbor_at_equal_compute_is_better(law, budget, factor):
    n, d = law.n_opt(budget), law.d_opt(budget)
    assert law.loss(n * factor, d / factor) >= law.loss_opt(budget) - 1e-12


@given(loss_laws, budgets)
def test_exponents_are_slopes_of_the_allocation(law, budget):
    slope = np.log(law.n_opt(10 * budget) / law.n_opt(budget)) / np.log(10)
    assert law.a == pytest.approx(slope, rel=1e-9)
    assert law.a + law.b == pytest.approx(1)


@given(loss_laws, st.floats(0.01, 100), st.floats(0.01, 100))
def test_units_scale_a_and_b_only(law, n_unit, d_unit):
    rescaled = LossLaw(
        E=law.E, A=law.A / n_unit**law.alpha, B=law.B / d_unit**law.beta,
        alpha=law.alpha, beta=law.beta, k=law.k,
    )  # fmt: skip
    assert rescaled.loss(1e8 / n_unit, 1e10 / d_unit) == pytest.approx(law.loss(1e8, 1e10))


@given(loss_laws, budgets, st.floats(0.1, 10))
def test_extra_flops_is_the_budget_that_would_have_been_enough(law, budget, factor):
    """The share wasted by N off the optimum leads back to the loss that was reached."""
    params = law.n_opt(budget) * factor
    enough = budget / (1 + law.extra_flops(params, budget))
    reached = law.loss(params, budget / 6 / params)
    assert law.loss_opt(enough) == pytest.approx(reached, rel=1e-9)


@given(loss_laws, st.floats(1e18, 1e24), st.floats(0, 1e14))
def test_serving_costs_least_at_equal_loss(law, budget, served):
    found = deployment(law, budget, served)
    assert law.loss(found.params, found.tokens) == pytest.approx(law.loss_opt(budget), rel=1e-8)
    alone = budget + 2 * law.n_opt(budget) * served
    assert found.flops <= alone * (1 + 1e-9)
    assert found.params <= law.n_opt(budget) * (1 + 1e-6)


def test_without_service_the_deployment_is_compute_optimal():
    law = PUBLISHED[1].law
    assert deployment(law, 1e23, 0.0).flops == pytest.approx(1e23, rel=1e-9)


def test_published_laws_say_what_their_papers_say():
    laws = {one.name: one.law for one in PUBLISHED}
    assert laws["Kaplan"].n_opt(8.64e19) == pytest.approx(1.3e9)
    assert laws["Llama 3"].d_opt(3.8e25) == pytest.approx(16.55e12, rel=0.05)
    assert laws["Chinchilla"].a == pytest.approx(0.4516, abs=1e-4)
    for law in laws.values():
        assert 6 * law.n_opt(1e22) * law.d_opt(1e22) == pytest.approx(1e22)
    assert isinstance(laws["Kaplan"], AllocationLaw)
