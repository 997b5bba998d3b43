"""Laws of the solvers, on a mixture of Gaussians whose probability flow is known exactly.

In one dimension the probability-flow ODE keeps the quantile, so `Mixture.flow` gives its solution
by bisection and no solver has to serve as another's reference.
"""

import math
from functools import cache

import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler

from mixture import MIXTURE
from spikediff.diffusion.analytic_dpm import AnalyticDPMScheduler
from spikediff.diffusion.schedulers import make_scheduler

ALPHA_BAR = make_scheduler("ddpm").alphas_cumprod.double()
X_T = torch.linspace(-2.5, 2.5, 41, dtype=torch.float64).reshape(1, 1, 1, -1)


def solve(scheduler, x, until=None, **options):
    """Integrate with the exact score, to x_0 or to the timestep `until`."""
    for t in scheduler.timesteps.tolist():
        if t == until:
            return x
        estimate = MIXTURE.noise_estimate(x.double(), ALPHA_BAR[t])
        x = scheduler.step(estimate, t, x, **options).prev_sample
    assert until is None, f"never came to timestep {until}"
    return x


def ode_solver(name, steps):
    scheduler = make_scheduler(name)
    scheduler.register_to_config(clip_sample=False)  # the mixture's tails lie outside [-1, 1]
    scheduler.set_timesteps(steps)
    return scheduler


def flow_error(name, steps):
    """Root mean square distance from the exact flow at timestep 99.

    There, because the final jump onto x_0, where log-SNR is infinite, is first-order for every
    solver; 99 is on the grid of every number of steps that is a multiple of ten.
    """
    reached = solve(ode_solver(name, steps), X_T, until=99).double()
    return (reached - MIXTURE.flow(X_T, ALPHA_BAR[999], ALPHA_BAR[99])).square().mean().sqrt()


@pytest.mark.parametrize(
    ("name", "coarse", "order"),
    [
        ("ddim", 100, 1),
        ("dpmsolver++", 100, 2),  # 2M
        ("deis", 50, 2),
        ("unipc", 100, 3),  # UniP-2 with the corrector UniC-2, which raises the order by one
    ],
)
def test_measured_order_of_convergence(name, coarse, order):
    """Steps twice as many divide the error by 2^order.

    Measured between the steps where higher terms still show and those where diffusers' float32
    tables take over: about 1e-6 here, which UniPC reaches at 500 steps. DEIS loses its digits
    earlier still: past 200 steps its error grows again, from 1e-4 to 3e-4 at 1000.
    """
    ratio = flow_error(name, coarse) / flow_error(name, 2 * coarse)
    assert math.log2(ratio) == pytest.approx(order, abs=0.2)


@pytest.mark.parametrize("steps", [10, 50])
@pytest.mark.parametrize(
    ("algorithm_type", "final"),
    [
        ("dpmsolver++", "zero"),
        pytest.param(
            "dpmsolver", "sigma_min", marks=pytest.mark.filterwarnings("ignore::FutureWarning")
        ),
    ],
)
def test_first_order_dpm_solver_is_ddim(algorithm_type, final, steps):
    """In both parametrisations; "dpmsolver" cannot go on to x_0, so both stop at timestep 0."""
    ddim = DDIMScheduler(
        timestep_spacing="trailing", clip_sample=False, set_alpha_to_one=final == "zero"
    )
    dpm = DPMSolverMultistepScheduler(
        timestep_spacing="trailing",
        solver_order=1,
        algorithm_type=algorithm_type,
        final_sigmas_type=final,
    )
    for scheduler in (ddim, dpm):
        scheduler.set_timesteps(steps)
    # DPMSolverMultistepScheduler computes in float32 whatever it is given: 1e-7 a step.
    torch.testing.assert_close(solve(dpm, X_T).double(), solve(ddim, X_T), atol=3e-6, rtol=0)


@pytest.mark.parametrize(
    ("name", "steps", "error"),
    [
        pytest.param("ddim", 1000, 5e-3, marks=pytest.mark.slow),
        ("dpmsolver++", 500, 1e-3),
        pytest.param("unipc", 700, 5e-4, marks=pytest.mark.slow),
        ("deis", 250, 3e-3),
    ],
)
def test_many_steps_come_to_the_same_image(name, steps, error):
    """Many steps agree with the flow at x_0 itself, hence with one another.

    Measured 3.6e-3, 7e-4, 3e-4 and 1.8e-3 at the worst point, in the tails.
    """
    exact = MIXTURE.flow(X_T, ALPHA_BAR[999], 1.0)
    got = solve(ode_solver(name, steps), X_T).double()
    torch.testing.assert_close(got, exact, atol=error, rtol=0)


@cache
def second_moments():
    return [MIXTURE.second_moment(ALPHA_BAR[t]) for t in range(0, 1000, 27)]


def analytic(eta, steps):
    scheduler = AnalyticDPMScheduler(
        second_moment=second_moments(),
        second_moment_timesteps=list(range(0, 1000, 27)),
        eta=eta,
        clip_sample=False,
        clip_last_noise=None,
    )
    scheduler.set_timesteps(steps)
    return scheduler


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_many_steps_of_analytic_dpm_give_the_same_distribution(eta):
    """Kolmogorov distance of 20,000 samples from the data; chance alone gives 0.01."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(1, 1, 1, 20_000, dtype=torch.float64, generator=draw)
    x = solve(analytic(eta, 100), x, generator=draw).flatten().sort().values
    ranks = (torch.arange(len(x)) + 0.5) / len(x)
    assert (MIXTURE.cdf(x, 1.0) - ranks).abs().max() < 0.02


def test_analytic_ddim_tends_to_the_ode():
    """At eta = 0 the variance of a step is of second order, so all of it together of first."""
    total = [
        sum(scheduler.variance(t) for t in scheduler.timesteps.tolist())
        for scheduler in (analytic(0.0, steps) for steps in (125, 250, 500))
    ]
    assert total[0] / total[1] == pytest.approx(2, abs=0.15)
    assert total[1] / total[2] == pytest.approx(2, abs=0.15)
