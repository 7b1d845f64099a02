"""The mathematics of a single noise level, in closed form.

The identities are docs/identities.md#conversions, #edm, #dynamic-thresholding, #zero-terminal-snr, #low-precision and
#guidance.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from seedfast.diffusion import guidance, levels
from seedfast.diffusion import parameterisation as installed
from seedfast.diffusion.grids import Spacing, table_grid, timesteps
from seedfast.diffusion.levels import NoiseLevel
from seedfast.diffusion.parameterisation import Prediction
from seedfast.diffusion.schedules import table, zero_terminal_snr
from seedfast.errors import UserError
from seedfast.verify.identities.check import Check, relative_error
from seedfast.verify.identities.toys import numbers

PREDICTIONS: tuple[Prediction, ...] = ("eps", "x0", "v", "flow", "edm")
STEPS = 1000
_GAMMA = 5.0
Target = Callable[[Prediction, Tensor, Tensor, NoiseLevel], Tensor]
Back = Callable[[Prediction, Tensor, Tensor, NoiseLevel], Tensor]


def reference(*, zero_terminal: bool = False) -> NoiseLevel:
    """All levels of the reference schedule: T = 1000, β linear from 1e-4 to 0.02."""
    return table("linear", STEPS, zero_terminal=zero_terminal).at(torch.arange(STEPS))


def kinds() -> list[NoiseLevel]:
    """Levels of every kind of schedule: variance preserving, straight path, variance exploding."""
    unit = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)
    return [reference(), levels.flow(unit), levels.variance_exploding(100 * unit)]


def _pair(level: NoiseLevel) -> tuple[Tensor, Tensor]:
    return numbers("x0", len(level.a), 3), numbers("eps", len(level.a), 3)


def conversions(
    target: Target = installed.target, to_x0: Back = installed.to_x0, to_eps: Back = installed.to_eps
) -> Check:
    """v = a ε - s x0, x0 = a x - s v, ε = s x + a v; and every parameterisation converts back to its x0 and ε."""
    level = reference()
    x0, eps = _pair(level)
    a, s = level.a[:, None], level.s[:, None]
    x = a * x0 + s * eps
    v = a * eps - s * x0
    paper = max(
        relative_error(target("v", x0, eps, level), v),
        relative_error(to_x0("v", v, x, level), a * x - s * v),
        relative_error(to_eps("v", v, x, level), s * x + a * v),
        relative_error(target("eps", x0, eps, level), eps),
        relative_error(target("x0", x0, eps, level), x0),
        relative_error(target("flow", x0, eps, level), eps - x0),
    )
    back = 0.0
    for each in kinds():
        x0, eps = _pair(each)
        x = levels.add_noise(x0, eps, each)
        for prediction in PREDICTIONS:
            output = target(prediction, x0, eps, each)
            back = max(back, relative_error(to_x0(prediction, output, x, each), x0))
            back = max(back, relative_error(to_eps(prediction, output, x, each), eps))
    detail = f"v as in the paper to {paper:.0e}; {len(PREDICTIONS)} predictions on 3 schedules and back to {back:.0e}"
    return Check("conversions", "conversions", max(paper, back) < 1e-10, detail)


def weights(
    min_snr: Callable[[Prediction, NoiseLevel, float], Tensor] = installed.min_snr_weight,
    x0_weight: Callable[[Prediction, NoiseLevel], Tensor] = installed.x0_weight,
) -> Check:
    """ε-MSE = SNR · x0-MSE, v-MSE = (SNR + 1) · x0-MSE; min-SNR-γ is min(SNR, γ) · x0-MSE, finite everywhere."""
    level = reference()
    x0, eps = _pair(level)
    x = levels.add_noise(x0, eps, level)
    wrong = x0 + numbers("error", *x0.shape)  # another x0, with its ε at the same x
    wrong_eps = levels.eps_from_x0(x, wrong, level)
    x0_mse = (wrong - x0).square().mean(dim=1)
    mse = {
        p: (installed.target(p, wrong, wrong_eps, level) - installed.target(p, x0, eps, level)).square().mean(dim=1)
        for p in PREDICTIONS
    }
    measured = max(relative_error(mse[p] / (x0_weight(p, level) * x0_mse), 1.0) for p in PREDICTIONS)
    paper = max(
        relative_error(mse["eps"] / (level.snr * x0_mse), 1.0),
        relative_error(mse["v"] / ((level.snr + 1) * x0_mse), 1.0),
    )
    capped = level.snr.clamp(max=_GAMMA) * x0_mse
    capped_apart = max(relative_error(min_snr(p, level, _GAMMA) * mse[p] / capped, 1.0) for p in PREDICTIONS)
    terminal = reference(zero_terminal=True)
    ends = NoiseLevel(*(torch.cat([each, torch.tensor([end]).double()]) for each, end in
                   ((terminal.a, 1.0), (terminal.s, 0.0), (terminal.time.double(), 0.0))))  # fmt: skip
    every = torch.stack([min_snr(p, ends, _GAMMA) for p in PREDICTIONS])
    finite = bool(torch.isfinite(every).all()) and float(every.max()) <= _GAMMA * 2
    holds = max(measured, paper, capped_apart) < 1e-9 and finite
    detail = f"squared errors to {max(measured, paper):.0e}, min-SNR to {capped_apart:.0e}, finite everywhere: {finite}"
    return Check("conversions", "loss weights", holds, detail)


def preconditioning(
    target: Callable[[Prediction, Tensor, Tensor, NoiseLevel, float], Tensor] = installed.target,
    input_std: Callable[[NoiseLevel, float], Tensor] = installed.input_std,
) -> Check:
    """c_in²(σ² + σd²) = 1, w·c_out² = 1, and with F = 0 and data of deviation σd the loss is 1 per pixel at every σ."""
    sigma = torch.logspace(-3, 2, 101, dtype=torch.float64)
    level = levels.variance_exploding(sigma)
    worst = 0.0
    for sigma_data in (0.5, 1.0, 2.0):
        c_in = 1 / input_std(level, sigma_data)
        c_out = sigma * sigma_data / (sigma.square() + sigma_data**2).sqrt()
        # x0 and ε orthogonal, with exactly these standard deviations.
        x0 = sigma_data * torch.tensor([1.0, 1.0, -1.0, -1.0]).double().expand(len(sigma), 4)
        eps = torch.tensor([1.0, -1.0, 1.0, -1.0]).double().expand(len(sigma), 4)
        loss = target("edm", x0, eps, level, sigma_data).square().mean(dim=1)
        weight = installed.x0_weight("edm", level, sigma_data)
        skip = sigma_data**2 / (sigma.square() + sigma_data**2)
        paper = (x0 - skip[:, None] * (x0 + sigma[:, None] * eps)) / c_out[:, None]
        worst = max(
            worst,
            relative_error(c_in.square() * (sigma.square() + sigma_data**2), 1.0),
            relative_error(weight * c_out.square(), 1.0),
            relative_error(loss, 1.0),
            relative_error(target("edm", x0, eps, level, sigma_data), paper),
        )
    return Check("edm", "EDM preconditioning", worst < 1e-10, f"all σ from 0.001 to 100 to {worst:.0e}")


def dynamic_thresholding(threshold: Callable[[Tensor, float], Tensor] = guidance.dynamically_thresholded) -> Check:
    """s = max(1, q_p|x0|) per example, clip to ±s, divide by s: equal to the clamp where s = 1, not where s > 1."""
    x0 = numbers("pixels", 6, 1, 9, 11)
    x0 = x0 * torch.tensor([0.1, 0.2, 0.3, 1.0, 2.0, 5.0]).double().view(-1, 1, 1, 1)
    x0[0, 0, 0, 0] = 1.7  # one pixel in a hundred: below the percentile, so it is clamped
    worst, right = 0.0, True
    for percentile in (0.9, 0.95, 1.0):
        s_B = torch.quantile(x0.flatten(1).abs(), percentile, dim=1).clamp(min=1).view(-1, 1, 1, 1)
        found = threshold(x0, percentile)
        worst = max(worst, relative_error(found, x0.clamp(-s_B, s_B) / s_B))
        small = s_B[:, 0, 0, 0] == 1
        right &= torch.equal(found[small], guidance.clamped(x0)[small])
        right &= bool((found[4:] != guidance.clamped(x0)[4:]).any(dim=(1, 2, 3)).all())
    detail = f"as defined to {worst:.0e}; the clamp exactly where s = 1, and something else where s > 1: {right}"
    return Check("dynamic-thresholding", "dynamic thresholding", worst < 1e-12 and right, detail)


def terminal_snr(rescale: Callable[[Tensor], Tensor] = zero_terminal_snr) -> Check:
    """After rescaling ᾱ_T = 0 and √ᾱ_0 is unchanged; ε-prediction is refused; sampling starts at t = T-1."""
    before = reference().a.square()
    after = rescale(before)
    ends = float(after[-1]) == 0 and relative_error(after[0].sqrt(), before[0].sqrt()) < 1e-14
    falls = bool((after.diff() < 0).all())
    rescaled = table("linear", STEPS, zero_terminal=True)
    refused = _refuses(lambda: installed.check_recoverable("eps", rescaled.at(torch.arange(STEPS))))
    starts: dict[Spacing, bool] = {
        "trailing": int(timesteps(STEPS, 7, "trailing")[0]) == STEPS - 1,
        "linspace": int(timesteps(STEPS, 7, "linspace")[0]) == STEPS - 1,
        "leading": _refuses(lambda: table_grid(rescaled, timesteps(STEPS, 7, "leading"))),
    }
    started = all(starts.values())
    detail = f"ᾱ_T = {float(after[-1]):g}, √ᾱ_0 unchanged: {ends}; ε refused: {refused}; starts at T-1: {started}"
    return Check("zero-terminal-snr", "zero terminal SNR", ends and falls and refused and started, detail)


def _refuses(action: Callable[[], object]) -> bool:
    try:
        action()
    except UserError:
        return True
    return False


def low_precision(add_noise: Callable[[Tensor, Tensor, NoiseLevel], Tensor] = levels.add_noise) -> Check:
    """Under bf16 the standard deviation of the added noise is √(1-ᾱ) to 1e-3 at every t."""
    level = reference()
    eps = numbers("eps", STEPS, 2048).float()
    eps = eps / eps.std(dim=1, keepdim=True)
    x0 = numbers("x0", STEPS, 2048).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        x = add_noise(x0, eps, level)
    added = (x.double() - level.a[:, None] * x0.double()).std(dim=1)
    worst = relative_error(added / level.s, 1.0)
    return Check(
        "low-precision", "noising under bf16", worst < 1e-3, f"standard deviation of the noise right to {worst:.0e}"
    )


def classifier_free(guided: Callable[[Tensor, Tensor, float], Tensor] = guidance.guided) -> Check:
    """Scale 1 is the conditional prediction, 0 the unconditional one; equal branches have no effect; ε and x0 agree."""
    u, c = numbers("unconditional", 4, 5), numbers("conditional", 4, 5)
    level = table("linear", STEPS).at(torch.tensor(300))
    x = numbers("x", 4, 5)
    x0_u, x0_c = (installed.to_x0("eps", each, x, level) for each in (u, c))
    worst = max(
        relative_error(guided(u, c, 1.0), c),
        relative_error(guided(u, c, 0.0), u),
        max(relative_error(guided(u, u, w), u) for w in (0.0, 0.5, 1.0, 3.0, 7.5)),
        relative_error(guided(u, c, 3.0), u + 3 * (c - u)),
        relative_error(installed.to_x0("eps", guided(u, c, 3.0), x, level), guided(x0_u, x0_c, 3.0)),
    )
    return Check("guidance", "guidance", worst < 1e-13, f"scales 0, 1, 3 and equal branches to {worst:.0e}")
