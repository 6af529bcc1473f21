"""The moves of AOFP on damages that are known, no network in sight: what is masked, in which order, when it ends."""

import itertools
import math

import numpy as np
import pytest
import torch

from autoprune.cost import CostModel, LayerCost, Limits, LinearForm
from autoprune.methods._aofp_moves import MaskSearch, Moves, lowest_half, scores_of

ADDITIVE = 1e-3 * torch.arange(1, 17, dtype=torch.float64)  # filter j of 1 .. 16 alone does damage j / 1000


def expected_means(damages, n_drawn):
    """Of additive damages, over all draws."""
    n = len(damages)
    return damages * (n - n_drawn) / (n - 1) + damages.sum() * (n_drawn - 1) / (n - 1)


def record_expectations(moves, damages):
    """What the half would come to if it were infinitely long."""
    searched = moves.searched.nonzero()[:, 0]
    means = expected_means(damages[searched], max(1, len(searched) // 2))
    for channel, mean in zip(searched, means, strict=True):
        moves.record(channel[None], mean)
    return searched.tolist(), means


# -- one group ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "n_drawn"), [(2, 1), (5, 2), (7, 3), (8, 4), (8, 2)])
def test_mean_damage_over_every_draw(n, n_drawn):
    damages = ADDITIVE[:n].flip(0)
    moves = Moves(n, theta=1.0)
    for drawn in itertools.combinations(range(n), n_drawn):
        moves.record(torch.tensor(drawn), damages[list(drawn)].sum())
    torch.testing.assert_close(moves.means(), expected_means(damages, n_drawn), rtol=0, atol=1e-15)
    assert int(moves.n_recorded) == math.comb(n, n_drawn)


def test_mean_damage_over_random_draws():
    moves, generator = Moves(16, theta=1.0), torch.Generator().manual_seed(0)
    for _ in range(10_000):
        drawn = moves.draw(generator)
        moves.record(drawn, ADDITIVE[drawn].sum())
    expected = expected_means(ADDITIVE, 8)
    assert (expected[0].item(), expected[15].item()) == pytest.approx((0.0640, 0.0720), abs=1e-12)
    assert (moves.means() - expected).abs().max().item() < 4e-4  # four standard deviations; the means are 8e-3 apart


def test_trace():
    """Worked out by hand: one move masks 1 and 2, then 3 .. 9 go one in each move, and that for 10 is abandoned."""
    moves, taus, masks = Moves(16, theta=0.01), [], []
    for _ in range(40):
        searched, means = record_expectations(moves, ADDITIVE)
        lowest = lowest_half(moves.means(), moves.searched.nonzero()[:, 0])
        taus.append(round(moves.means()[lowest[-1]].item(), 5))
        masked = moves.end_half(most=16, n_masked=sum(map(len, masks)))
        if len(masked):
            masks.append([channel + 1 for channel in masked.tolist()])
        elif len(searched) < 4:
            break
        assert means.isfinite().all()
    assert taus[:6] == [0.06773, 0.01771, 0.00467, 0.06623, 0.01733, 0.00300]
    assert masks == [[1, 2], [3], [4], [5], [6], [7], [8], [9]]
    assert taus[-1] == 0.01  # which is not below theta
    assert (moves.kept.nonzero()[:, 0] + 1).tolist() == list(range(10, 17))
    assert moves.searched.equal(moves.kept)
    assert moves.order.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, *[0] * 7]


@pytest.mark.parametrize(("width", "sizes"), [(100, [50, 25, 12, 6, 3]), (13, [6, 3]), (3, []), (2, [])])
def test_halves_shrink_until_the_move_is_abandoned(width, sizes):
    moves, found = Moves(width, theta=1e-9), []
    for _ in range(len(sizes) + 1):
        moves.record(moves.searched.nonzero()[:, 0], torch.tensor(1.0, dtype=torch.float64))
        assert moves.end_half(most=width, n_masked=0).tolist() == []
        assert (int(moves.n_recorded), moves.means().isinf().all()) == (0, True)
        found.append(int(moves.searched.sum()))
    assert found == [*sizes, width]
    assert moves.damage.tolist() == [1.0] * width


def test_a_mean_must_be_below_theta():
    for theta, masked in ((0.25, []), (0.26, [0, 1])):
        moves = Moves(4, theta=theta)
        moves.record(torch.arange(4), torch.tensor(0.25))
        assert moves.end_half(most=4, n_masked=0).tolist() == masked


def test_ties_go_to_the_lower_index():
    assert lowest_half(torch.tensor([2.0, 1.0, 1.0, 1.0, 0.5]), torch.arange(5)).tolist() == [4, 1]
    assert lowest_half(torch.tensor([2.0, 1.0, 1.0, 1.0, 0.5]), torch.tensor([0, 2, 3])).tolist() == [2]
    assert lowest_half(torch.tensor([math.inf, math.inf, math.inf, 3.0]), torch.arange(4)).tolist() == [3, 0]


def test_a_channel_that_was_never_drawn_counts_as_harmful():
    moves = Moves(4, theta=1.0)
    moves.record(torch.tensor([2]), torch.tensor(1e-6))
    assert moves.means().tolist() == pytest.approx([math.inf, math.inf, 1e-6, math.inf])
    assert moves.end_half(most=4, n_masked=0).tolist() == []
    assert moves.searched.tolist() == [True, False, True, False]
    assert moves.damage.tolist() == pytest.approx([-1.0, -1.0, 1e-6, -1.0])


def test_the_minimum_width_stays():
    moves = Moves(8, theta=1.0, min_width=5)
    for channel in range(8):
        moves.record(torch.tensor([channel]), torch.tensor(0.1 * (8 - channel)))
    assert moves.n_spare == 3
    assert moves.end_half(most=8, n_masked=10).tolist() == [7, 6, 5]  # of the four found harmless
    assert moves.order.tolist() == [0, 0, 0, 0, 0, 13, 12, 11]
    assert (int(moves.kept.sum()), moves.n_spare) == (5, 0)


def test_halves_are_halves_near_the_minimum_width_too():
    """The limit counts when masking: one channel of 4 could hardly be found harmless by the mean of halves of 4."""
    moves, masks = Moves(4, theta=0.0011, min_width=3), []
    for _ in range(2):
        record_expectations(moves, ADDITIVE[:4])
        masks.append(moves.end_half(most=4, n_masked=0).tolist())
    assert masks == [[], [0]]
    assert moves.n_spare == 0


@pytest.mark.parametrize(("n", "ratio", "size"), [(16, 0.5, 8), (7, 0.5, 3), (16, 0.25, 4), (2, 0.25, 1), (3, 0.9, 2)])
def test_draws(n, ratio, size):
    moves, generator = Moves(n + 4, theta=1.0, mask_ratio=ratio), torch.Generator().manual_seed(0)
    moves.kept[:4] = False
    moves.searched.copy_(moves.kept)
    counts = torch.zeros(n + 4)
    for _ in range(1000):
        drawn = moves.draw(generator)
        assert len(drawn) == size
        assert (drawn.diff() > 0).all()
        counts[drawn] += 1
    assert counts[:4].tolist() == [0, 0, 0, 0]
    assert (counts[4:] / 1000 - size / n).abs().max() < 0.06


def test_draws_follow_the_global_generator():
    moves = Moves(64, theta=1.0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        one, other = moves.draw(), moves.draw()
        torch.manual_seed(3)
        assert moves.draw().equal(one)
    assert not one.equal(other)


# -- several groups -------------------------------------------------------------------------------------------------


def chain(*widths):
    """Layers of 1×1 kernels on one position, from 3 channels through the groups to 10."""
    counts = [LinearForm(3), *(LinearForm(0, ((i, 1),)) for i in range(len(widths))), LinearForm(10)]
    layers = [LayerCost(f"layer{i}", 1, 1, 0, *pair) for i, pair in enumerate(itertools.pairwise(counts))]
    names = tuple(f"group{i}" for i in range(len(widths)))
    return CostModel(names, widths, tuple(layers))


def search(*widths, macs=0.0, params=None, samples=6, first=0, theta=1.0, least=1):
    cost = chain(*widths)
    moves = {name: Moves(cost.dense[i], theta=theta, min_width=least) for i, name in enumerate(cost.groups)}
    return moves, cost, MaskSearch(moves, cost, limits=Limits(macs=macs, params=params), samples=samples, first=first)


def take_steps(found, moves, n, generator, scale=1.0):
    """Steps with additive damages."""
    changes = []
    for _ in range(n):
        drawn = {name: one.draw(generator) for name, one in moves.items() if found.is_on(name)}
        changes.append(found.count_step({name: (some, scale * ADDITIVE[some].sum()) for name, some in drawn.items()}))
    return changes


def test_groups_begin_in_turn_and_halves_have_their_length():
    moves, _, found = search(8, 8, 8, samples=6, first=2)
    begun, changes, generator = {}, [], torch.Generator().manual_seed(0)
    for step in range(12):
        for name in moves:
            if found.is_on(name):
                begun.setdefault(name, step)
        changes += take_steps(found, moves, 1, generator)
    assert begun == {"group0": 2, "group1": 4, "group2": 6}
    assert np.flatnonzero(changes).tolist() == [7, 9, 11]
    assert {name: int(one.kept.sum()) for name, one in moves.items()} == dict.fromkeys(moves, 4)
    assert [sorted(one.order[~one.kept].tolist()) for one in moves.values()] == [
        [1, 2, 3, 4],
        [5, 6, 7, 8],
        [9, 10, 11, 12],
    ]


def test_more_groups_than_samples_still_begin_in_turn():
    moves, _, found = search(4, 4, 4, 4, samples=2)
    begun, generator = {}, torch.Generator().manual_seed(0)
    for step in range(2):
        for name in moves:
            if found.is_on(name):
                begun.setdefault(name, step)
        take_steps(found, moves, 1, generator)
    assert begun == {"group0": 0, "group1": 0, "group2": 1, "group3": 1}


@pytest.mark.parametrize("ratio", [1.0, 0.9, 0.6, 0.3, 0.05, 0.03])
def test_ends_once_the_target_is_met_without_going_past_it(ratio):
    cost = chain(16, 12, 8)
    moves, _, found = search(16, 12, 8, macs=ratio * cost.dense_macs, samples=2)
    generator = torch.Generator().manual_seed(1)
    take_steps(found, moves, 100, generator)
    widths = {name: int(one.kept.sum()) for name, one in moves.items()}
    if ratio == 0.03:  # less than the minimum widths cost
        assert widths == {"group0": 1, "group1": 1, "group2": 1}
        return
    assert cost.macs(widths) <= ratio * cost.dense_macs
    if ratio == 1.0:
        assert widths == dict(zip(cost.groups, cost.dense, strict=True))
    else:
        last = max(moves, key=lambda name: int(moves[name].order.max()))
        assert cost.macs({**widths, last: widths[last] + 1}) > ratio * cost.dense_macs
    assert not any(found.is_on(name) for name in moves)
    other_moves, _, other = search(16, 12, 8, macs=ratio * cost.dense_macs, samples=2)
    other.load_state_dict(found.state_dict())
    assert not any(other.is_on(name) for name in other_moves)
    before = {key: tensor.clone() for key, tensor in found.state_dict().items() if key != "step"}
    assert take_steps(found, moves, 5, generator) == [False] * 5
    assert all(tensor.equal(before[key]) for key, tensor in found.state_dict().items() if key != "step")


@pytest.mark.parametrize("ratio", [0.9, 0.5, 0.2])
def test_a_limit_of_parameters_is_kept_as_one_of_macs_is(ratio):
    cost = chain(16, 12, 8)
    params = round(ratio * cost.dense_params)
    moves, _, found = search(16, 12, 8, macs=cost.dense_macs, params=params, samples=2)
    take_steps(found, moves, 100, torch.Generator().manual_seed(1))
    widths = {name: int(one.kept.sum()) for name, one in moves.items()}
    assert cost.params(widths) <= params
    last = max(moves, key=lambda name: int(moves[name].order.max()))
    assert cost.params({**widths, last: widths[last] + 1}) > params
    assert not any(found.is_on(name) for name in moves)


def test_the_last_to_be_masked_are_those_of_smallest_damage():
    cost = chain(16)  # a channel is 13 MACs of 208
    moves, _, found = search(16, macs=13 * 13, samples=16)
    for channel in range(16):
        found.count_step({"group0": (torch.tensor([channel]), ADDITIVE[15 - channel])})
    assert cost.dense_macs == 208
    assert (~moves["group0"].kept).nonzero()[:, 0].tolist() == [13, 14, 15]
    assert moves["group0"].order[13:].tolist() == [3, 2, 1]


def test_a_group_at_its_minimum_is_retired():
    moves, _, found = search(4, 16, samples=2, least=3)
    take_steps(found, moves, 60, torch.Generator().manual_seed(0))
    assert {name: int(one.kept.sum()) for name, one in moves.items()} == {"group0": 3, "group1": 3}
    assert not found.is_on("group0")


def test_pausing_changes_no_bit():
    generator = torch.Generator().manual_seed(5)
    moves, _, found = search(16, 12, samples=3, theta=0.05)
    for _ in range(7):
        take_steps(found, moves, 5, generator)
        saved = {key: tensor.clone() for key, tensor in found.state_dict().items()}
        other_moves, _, other = search(16, 12, samples=3, theta=0.05)
        other.load_state_dict(saved)
        again = torch.Generator()
        again.set_state(generator.get_state())
        expected = take_steps(found, moves, 11, generator)
        assert take_steps(other, other_moves, 11, again) == expected
        assert all(tensor.equal(found.state_dict()[key]) for key, tensor in other.state_dict().items())
    assert int(saved["step"]) == 101
    assert 0 < int(saved["group0:kept"].sum()) < 16


# -- ranking --------------------------------------------------------------------------------------------------------


def test_scores():
    moves, _, found = search(4, 4, 3)
    for one in moves.values():
        one.searched.zero_()
    first, second, third = moves.values()
    first.kept[2:], first.order[2:] = False, torch.tensor([3, 1])
    first.damage.copy_(
        torch.tensor([0.5, -1.0, 0.1, 0.2], dtype=torch.float64)
    )  # the second channel was measured in no whole half,
    first.record(torch.tensor([1]), torch.tensor(0.2, dtype=torch.float64))  # but twice in the last one
    first.record(torch.tensor([1]), torch.tensor(0.4, dtype=torch.float64))
    second.kept[0], second.order[0] = False, 2
    second.damage.copy_(torch.tensor([0.3, 0.6, -1.0, 0.0], dtype=torch.float64))
    norms = {name: np.array([0.5, 1.0, 1.5, 1.0]) for name in ("group0", "group1", "stream")}
    norms["group2"] = np.array([0.5, 1.0, 1.5])
    scores = scores_of(found.state_dict(), norms)
    assert list(scores) == ["group0", "group1", "stream", "group2"]
    np.testing.assert_allclose(scores["group0"], [0.5, 0.3, -1 / 3, -1], rtol=1e-12)
    np.testing.assert_allclose(scores["group1"][:3], [-2 / 3, 0.6, 0.45], rtol=1e-12)  # 0.3 is the group's mean
    assert 0 < scores["group1"][3] < 1e-300  # harmless, but not masked
    typical = np.mean([0.5, 0.3, 0.6, 0.0])  # of all, where a group was not measured at all
    np.testing.assert_allclose(scores["group2"], typical * norms["group2"], rtol=1e-12)
    np.testing.assert_allclose(scores["stream"], 1 + 0.6 + norms["stream"], rtol=1e-12)
    assert not third.order.any()


def test_scores_before_anything_was_measured():
    _, _, found = search(4, 3)
    norms = {"group0": np.array([0.5, 1.0, 0.0, 1.0]), "group1": np.zeros(3), "stream": np.array([0.0, 2.0])}
    scores = scores_of(found.state_dict(), norms)
    np.testing.assert_allclose(scores["group0"], [0.5, 1, 0, 1], atol=1e-300)
    assert all((score > 0).all() for score in scores.values())
    assert scores["stream"].tolist() == [2.0, 4.0]
