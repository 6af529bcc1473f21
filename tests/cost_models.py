"""Cost models for tests: a chain by hand, and any at random."""

import itertools

from hypothesis import strategies as st

from autoprune.cost import CostModel, LayerCost, LinearForm


def chain(dense=(8, 12, 6), *, inputs=3, classes=4, positions=16):
    """A chain of 3×3 convolutions with normalisations and a linear layer, written down by hand."""
    names = tuple(f"conv{i}" for i in range(len(dense)))
    layers, fan_in = [], LinearForm(inputs)
    for i, name in enumerate(names):
        fan_out = LinearForm(0, ((i, 1),))
        layers.append(LayerCost(name, 9 * positions, 9, 0, fan_in, fan_out))
        layers.append(LayerCost(f"bn{i}", 0, 0, 2, LinearForm(1), fan_out))
        fan_in = fan_out
    layers.append(LayerCost("fc", 1, 1, 1, fan_in, LinearForm(classes)))
    return CostModel(names, tuple(dense), tuple(layers))


def chain_by_hand(widths, *, inputs=3, classes=4, positions=16):
    macs = params = 0
    for before, width in itertools.pairwise((inputs, *widths)):
        macs += 9 * positions * before * width
        params += 9 * before * width + 2 * width
    return macs + widths[-1] * classes, params + widths[-1] * classes + classes


@st.composite
def cost_models(draw, max_groups=5, max_width=24):
    """Any network: layers are products of linear forms with non-negative coefficients; every group costs something."""
    n = draw(st.integers(1, max_groups))
    dense = [draw(st.integers(1, max_width)) for _ in range(n)]

    def form():
        terms = tuple((g, draw(st.integers(1, 3))) for g in range(n) if draw(st.booleans()))
        return LinearForm(draw(st.integers(0 if terms else 1, 4)), terms)

    layers = [
        LayerCost(
            f"layer{i}", draw(st.integers(1, 50)), draw(st.integers(1, 9)), draw(st.integers(0, 2)), form(), form()
        )
        for i in range(draw(st.integers(1, 6)))
    ]
    layers += [
        LayerCost(f"own{g}", draw(st.integers(1, 20)), 1, 0, LinearForm(1), LinearForm(0, ((g, 1),))) for g in range(n)
    ]
    return CostModel(tuple(f"g{g}" for g in range(n)), tuple(dense), tuple(layers))
