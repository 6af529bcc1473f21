"""The logits among all that a network returns in training mode, and what its auxiliary heads add to the loss."""

from collections import OrderedDict, namedtuple

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from autoprune.config import TrainSpec
from autoprune.engine.images import ImageSet, Preprocess
from autoprune.engine.training import ImageFeed, Runtime, answer_of, described, train
from autoprune.errors import NetworkError

MAIN, AUX, MORE, OTHER = torch.zeros(2, 3), torch.ones(2, 3), torch.full((2, 3), 2.0), torch.zeros(2, 5)
Outputs = namedtuple("Outputs", ["logits", "aux_logits2", "aux_logits1"])
Own = namedtuple("Own", ["features", "logits"])


@pytest.mark.parametrize(
    ("output", "auxiliary"),
    [
        (MAIN, []),
        ((MAIN, AUX), [AUX]),
        ([MAIN, None, OTHER], []),
        ((MAIN, (AUX, MORE)), [AUX, MORE]),
        ((MAIN, [OTHER, {"deep": AUX}]), [AUX]),
        (Outputs(MAIN, AUX, MORE), [AUX, MORE]),
        (Outputs(MAIN, None, None), []),
        (Own(OTHER, MAIN), []),
        ({"out": MAIN, "aux": AUX}, [AUX]),
        ({"aux": AUX, "logits": MAIN}, [AUX]),
        (OrderedDict(main=MAIN, again=MAIN), []),
        ({"features": MAIN.long(), "output": MAIN}, []),
        ({"a": MAIN, "b": AUX}, [AUX]),
    ],
)
def test_the_logits_are_told_from_the_rest(output, auxiliary):
    answer = answer_of(output)
    assert answer.logits is MAIN
    assert len(answer.auxiliary) == len(auxiliary)
    assert all(one is other for one, other in zip(answer.auxiliary, auxiliary, strict=True))


@pytest.mark.parametrize(
    ("output", "told"),
    [
        (None, "gave None"),
        ((), r"gave a tuple \(\)"),
        ({"a": None, "b": 3}, r"gave a dict \(a: None, b: int\)"),
        (object(), "gave a object"),
    ],
)
def test_an_answer_without_tensors_is_refused(output, told):
    with pytest.raises(NetworkError, match=rf"must answer with logits in training mode, but {told}\. Return a tensor"):
        answer_of(output)


def test_what_came_is_described():
    assert described(MAIN) == "a tensor of shape (2, 3)"
    assert described(Own(MAIN, None)) == "a Own (features: tensor (2, 3), logits: None)"
    assert described([MAIN, OTHER]) == "a list (tensor (2, 3), tensor (2, 5))"
    assert described([1] * 9) == "a list (int, int, int, int, int, ...)"


class Images(ImageSet):
    def __init__(self):
        generator = torch.Generator().manual_seed(0)
        self.images = torch.randint(0, 256, (4, 1, 2, 2), generator=generator, dtype=torch.uint8)
        self.labels, self.shape = torch.tensor([0, 1, 1, 0]), (1, 2, 2)

    def read(self, index_batches):
        yield from (self.images[indices] for indices in index_batches)

    def subset(self, indices):
        raise NotImplementedError


class Helped(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.main, self.aux, self.more = (nn.Linear(4, 2) for _ in range(3))

    def forward(self, x):
        x = x.flatten(1)
        return {"aux": self.aux(x), "out": self.main(x), "deep": [self.more(x)]}


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_auxiliary_losses_count_three_tenths(smoothing):
    """One step of plain SGD against the same step written out."""
    images, model, expected = Images(), Helped(), Helped()
    spec = TrainSpec(
        epochs=1, batch=4, learning_rate=0.5, schedule="constant", momentum=0.0, weight_decay=0.0,
        label_smoothing=smoothing,
    )  # fmt: skip
    train(
        model,
        ImageFeed(images),
        spec,
        runtime=Runtime(torch.device("cpu"), "float32", Preprocess((0.5,), (0.25,))),
        seed=0,
    )
    x = ((images.images.float() / 255 - 0.5) / 0.25).flatten(1)
    for head, weight in ((expected.main, 1.0), (expected.aux, 0.3), (expected.more, 0.3)):
        loss = weight * F.cross_entropy(head(x), images.labels, label_smoothing=smoothing)
        for parameter, gradient in zip(
            head.parameters(), torch.autograd.grad(loss, list(head.parameters())), strict=True
        ):
            parameter.data -= 0.5 * gradient
    for one, other in zip(model.parameters(), expected.parameters(), strict=True):
        assert torch.allclose(one, other, rtol=0, atol=1e-6)
