"""Budgets that keep what they promise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffvis_jax.compress.controller import (
    choose,
    fit_controller,
    load_controller,
    predict_error,
    save_controller,
)
from diffvis_jax.errors import ConfigError

RUNGS = {"small": (64, 10.0), "middle": (144, 30.0), "large": (256, 80.0)}
NAMES = ("edges", "text", "useless")


def made(number: int, seed: int):
    """Features, and errors that fall with the rungs, rise with the first feature, and are the more
    uncertain the larger the second."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(number, 3)).astype(np.float32)
    base = np.exp(-2 + 0.8 * x[:, :1] - np.array([0.0, 0.7, 1.5]))
    noise = np.exp(0.3 * (1 + np.abs(x[:, 1:2])) * rng.normal(size=(number, 3)))
    return x, base * noise


@pytest.fixture(scope="module")
def controller():
    return fit_controller(*made(600, 0), rungs=RUNGS, names=NAMES)


def test_nine_of_ten_errors_are_as_foretold(controller):
    x, errors = made(4000, 1)
    foretold = np.asarray(predict_error(controller, jnp.asarray(x)))
    covered = (errors <= foretold).mean(0)
    assert ((covered >= 0.87) & (covered <= 0.95)).all(), covered
    assert (np.diff(foretold, axis=1) <= 0).all()
    # It looks at the frame: as large for all would be larger where little is lost.
    assert foretold[x[:, 0] < -1].mean() < 0.4 * foretold[x[:, 0] > 1].mean()


def test_the_cheapest_that_is_good_enough(controller):
    x, errors = made(4000, 2)
    level, met = choose(controller, jnp.asarray(x), max_error=0.2)
    level, met = np.asarray(level), np.asarray(met)
    foretold = np.asarray(predict_error(controller, jnp.asarray(x)))
    for frame in range(50):
        fits = np.flatnonzero(foretold[frame] <= 0.2)
        assert level[frame] == (fits[0] if len(fits) else 2)
        assert met[frame] == bool(len(fits))
    chosen = errors[np.arange(len(x)), level][met]
    assert (chosen <= 0.2).mean() > 0.87
    tokens = np.asarray(controller.tokens)[level]
    assert tokens.mean() < 256


def test_the_best_that_is_fast_enough(controller):
    x = jnp.zeros((2, 3))
    for limit, rung, kept in ((5, 0, False), (30, 1, True), (1000, 2, True)):
        level, met = choose(controller, x, max_ms=limit)
        assert level.tolist() == [rung] * 2
        assert met.tolist() == [kept] * 2


def test_choices_stick(controller):
    x = jnp.zeros((1, 3))
    foretold = np.asarray(predict_error(controller, x))[0]
    limit = float(foretold[0]) * 1.05  # the cheapest just fits
    assert choose(controller, x, max_error=limit)[0].tolist() == [0]
    stays = {"max_error": limit, "previous": jnp.array([1])}
    assert choose(controller, x, **stays, hysteresis=0.2)[0].tolist() == [1]
    assert choose(controller, x, **stays, hysteresis=0.01)[0].tolist() == [0]


def test_thresholds_compile_nothing(controller):
    traced = []

    @jax.jit
    def chosen(x, limit):
        traced.append(1)
        return choose(controller, x, max_error=limit)

    for limit in (0.1, 0.2, 0.5):
        chosen(jnp.zeros((1, 3)), limit)
    assert len(traced) == 1


def test_a_controller_survives_its_file(controller, tmp_path):
    save_controller(controller, tmp_path / "budget.json")
    back = load_controller(tmp_path / "budget.json")
    x = jnp.asarray(made(20, 3)[0])
    np.testing.assert_array_equal(predict_error(controller, x), predict_error(back, x))
    assert (back.names, back.features) == (tuple(RUNGS), NAMES)
    (tmp_path / "none.json").write_text('{"names": []}')
    with pytest.raises(ConfigError, match="holds no controller"):
        load_controller(tmp_path / "none.json")
    text = (tmp_path / "budget.json").read_text().replace('"edges", ', "")
    (tmp_path / "odd.json").write_text(text)
    with pytest.raises(ConfigError, match="arrays do not fit"):
        load_controller(tmp_path / "odd.json")


def test_what_cannot_be_fitted_or_asked_for(controller):
    x, errors = made(40, 4)
    fit = {"rungs": RUNGS, "names": NAMES}
    for features, lost, said in (
        (x[:29], errors[:29], "at least 30 frames"),
        (x[:, :2], errors, r"must be \(40, 3\) and \(40, 3\)"),
        (x, -errors, "errors at least 0"),
        (x * np.nan, errors, "must be finite"),
    ):
        with pytest.raises(ConfigError, match=said):
            fit_controller(features, lost, **fit)
    with pytest.raises(ConfigError, match="must rise"):
        fit_controller(x, errors[:, :2], rungs={"a": (5, 1.0), "b": (5, 2.0)}, names=NAMES)
    with pytest.raises(ConfigError, match="either max_error or max_ms"):
        choose(controller, jnp.zeros((1, 3)))
    with pytest.raises(ConfigError, match="either max_error or max_ms"):
        choose(controller, jnp.zeros((1, 3)), max_error=1, max_ms=1)
    with pytest.raises(ConfigError, match=r"features must be \[B, 3\] \(edges, text, useless\)"):
        choose(controller, jnp.zeros((1, 2)), max_error=1)
