"""Expected accuracies by a formula worked out by hand, and the hypervolume that a point adds."""

from __future__ import annotations

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoprune.search.proposals.gains import ErrorModel, Member, error_at, worth
from tests.search.fakes import RMSE

# error = 0.1 + exp(-1) macs_ratio^(-1/4) images^(-1/10)
LAW = ErrorModel(0.1, (-1.0, 0.25, 0.1))


def member(macs_ratio: float, accuracy: float, images: float, number: int = 0) -> Member:
    return Member(number, macs_ratio, accuracy, images, 0, "hash")


def test_what_is_above_the_floor_is_a_power_law() -> None:
    assert LAW.error(1.0, 1.0) == pytest.approx(0.1 + math.exp(-1))
    assert LAW.error(1 / 16, 1.0) == pytest.approx(0.1 + 2 * math.exp(-1))
    assert LAW.error(1.0, 1024.0) == pytest.approx(0.1 + math.exp(-1) / 2)
    assert LAW.error(1e-30, 1.0) == 1.0


@given(
    st.lists(
        st.tuples(st.floats(0.02, 1.0), st.floats(1e3, 1e6)), min_size=3, max_size=20, unique_by=lambda pair: pair[0]
    )
)
def test_networks_that_obey_the_prior_law_give_it_back(places: list[tuple[float, float]]) -> None:
    law = ErrorModel(0.95 * 0.1, (0.4, 0.6, 0.3))
    networks = [member(c, 1 - law.error(c, images), images) for c, images in places]
    found = ErrorModel.fitted([network for network in networks if network.score > 0], dense_score=0.9)
    assert found.floor == pytest.approx(0.095)
    assert found.coefficients == pytest.approx(law.coefficients, rel=1e-4)


def test_a_network_that_is_better_than_the_dense_one_lowers_the_floor() -> None:
    networks = [member(0.5, 0.92, 1e4), member(0.25, 0.88, 1e4)]
    assert ErrorModel.fitted(networks[1:], dense_score=0.9).floor == pytest.approx(0.095)
    better = ErrorModel.fitted(networks, dense_score=0.9)
    assert better.floor == pytest.approx(0.95 * 0.08)
    assert better.of_more(networks[0], images=1e6) > 0.92  # Which it is worth training on.


def test_many_networks_outvote_the_prior() -> None:
    law = ErrorModel(0.0, (0.5, 0.3, 0.15))
    places = [(max(0.9**i, 0.02), 1e3 * 1.37 ** (i * 7 % 23)) for i in range(400)]
    networks = [member(c, 1 - law.error(c, images), images) for c, images in places]
    found = ErrorModel.fitted([network for network in networks if network.score > 0.001])
    assert found.coefficients[1] == pytest.approx(0.3, abs=0.03)
    assert found.coefficients[2] == pytest.approx(0.15, abs=0.03)


def test_training_on_divides_what_is_above_the_floor_by_the_power_of_the_images() -> None:
    assert LAW.of_more(member(0.5, 0.7, 1000), images=1023_000) == pytest.approx(0.9 - 0.2 / 2)
    assert LAW.of_more(member(0.5, 0.95, 1000), images=1023_000) == 0.95  # Below the floor.


def test_a_child_keeps_half_of_what_its_parent_is_better() -> None:
    excess = LAW.error(0.5, 1000) - 0.1
    plain = LAW.of_child(member(0.5, 0.9 - excess, 1000), macs_ratio=0.25, images=500)
    # Of the parent's 1,000 images the half counts that its child keeps of its MACs.
    assert plain == pytest.approx(1 - LAW.error(0.25, 1000))
    better = LAW.of_child(member(0.5, 0.9 - excess / 2, 1000), macs_ratio=0.25, images=500)
    assert 0.9 - better == pytest.approx((0.9 - plain) / math.sqrt(2))
    assert LAW.of_child(None, macs_ratio=0.25, images=500) == pytest.approx(1 - LAW.error(0.25, 500))


@given(st.floats(1, 1e9), st.floats(0.01, 1), st.floats(0.01, 1), st.floats(0.01, 1))
def test_what_is_inherited_counts_by_the_share_of_macs_that_is_left(
    images: float, of: float, via: float, at: float
) -> None:
    assert worth(images, of=of, at=of) == images
    assert worth(images, of=at, at=min(2 * at, 1.0)) == images  # Nothing is learnt by growing.
    of, via, at = sorted((of, via, at), reverse=True)
    # By one cut or by two: what counts is what is left.
    assert worth(worth(images, of=of, at=via), of=via, at=at) == pytest.approx(worth(images, of=of, at=at))
    assert worth(1_000, of=0.8, at=0.2) == pytest.approx(250)


@given(st.floats(0, 1), st.floats(0.02, 1), st.floats(1, 1e6))
def test_accuracy_is_reckoned_with_in_the_same_steps_as_ever_to_the_last_bit(
    accuracy: float, ratio: float, images: float
) -> None:
    one, (a, b, c) = member(ratio, accuracy, 1000.0), LAW.coefficients
    excess = max(1 - accuracy - 0.1, 2e-3)
    shrunk = ((1000.0 + images) / 1000.0) ** -c
    assert LAW.of_more(one, images=images) == max(accuracy, 1 - 0.1 - excess * shrunk)
    expected = math.exp(a - b * math.log(ratio / 2) - c * math.log(images))
    assert LAW.of_child(None, macs_ratio=ratio / 2, images=images) == 1 - min(1.0, 0.1 + expected)
    better = math.log(excess / math.exp(a - b * math.log(ratio) - c * math.log(1000.0)))
    expected = math.exp(a - b * math.log(ratio / 2) - c * math.log(500.0 + images)) * math.exp(0.5 * better)
    assert LAW.of_child(one, macs_ratio=ratio / 2, images=images) == 1 - min(1.0, 0.1 + expected)


# A minimised metric: errors are shares of 4, the rmse of a useless network.


def test_expected_rmses_by_hand() -> None:
    law = ErrorModel(0.1, (-1.0, 0.25, 0.1), RMSE)
    assert law.of_child(None, macs_ratio=1.0, images=1.0) == pytest.approx(4 * (0.1 + math.exp(-1)))
    assert law.of_child(None, macs_ratio=1e-30, images=1.0) == 4.0  # As bad as useless, and no worse.
    # An rmse of 1.2 is an error of 0.3, 0.2 above the floor; 1,024 times the images halve that.
    assert law.of_more(member(0.5, 1.2, 1000), images=1023_000) == pytest.approx(0.8)
    assert law.of_more(member(0.5, 0.2, 1000), images=1023_000) == 0.2  # Below the floor.


@given(
    st.lists(
        st.tuples(st.floats(0.02, 1.0), st.floats(1e3, 1e6), st.floats(0, 1)),
        min_size=2, max_size=20, unique_by=lambda place: place[0],
    )
)  # fmt: skip
def test_an_rmse_is_modelled_as_the_accuracy_that_lacks_as_much(places: list[tuple[float, float, float]]) -> None:
    networks = [member(ratio, accuracy, images) for ratio, images, accuracy in places]
    others = [dataclasses.replace(network, score=4 * (1 - network.score)) for network in networks]
    model = ErrorModel.fitted(networks, dense_score=0.875)
    other = ErrorModel.fitted(others, dense_score=0.5, metric=RMSE)
    assert (other.floor, other.coefficients) == (model.floor, model.coefficients)
    for network, same in zip(networks, others, strict=True):
        ratio = network.macs_ratio / 2
        pairs = [
            (model.of_more(network, images=500), other.of_more(same, images=500)),
            (model.of_child(network, macs_ratio=ratio, images=500), other.of_child(same, macs_ratio=ratio, images=500)),
            (model.of_child(None, macs_ratio=ratio, images=500), other.of_child(None, macs_ratio=ratio, images=500)),
        ]
        for accuracy, rmse in pairs:
            assert rmse == pytest.approx(4 * (1 - accuracy), abs=1e-12)


def test_errors_at_other_numbers_of_images() -> None:
    # A floor of 0.095; 0.1 above it shrink by 8 ** -0.3 when eight times the images are seen.
    found = error_at(8_000, error=0.195, trained_on=1_000, dense_error=0.1)
    assert found == pytest.approx(0.095 + 0.1 * 8**-0.3)
    assert error_at(8_000, error=0.2, trained_on=8_000) == pytest.approx(0.2)
