"""What a network does in each mode is found before anything is computed; what it must not do is told by layer."""

import copy
import logging

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from autoprune.engine.images import Preprocess
from autoprune.engine.training import Runtime
from autoprune.errors import DataError, NetworkError
from autoprune.pipeline.probing import Probe
from tests.brought import Changed, Helped, Outputs, Plain, Viewing, pixels

torch.set_num_threads(1)


def probe(network, *, precision="float32", n_classes=4, batch=16, shape=None):
    runtime = Runtime(torch.device("cpu"), precision, Preprocess((0.5,) * 3, (0.25,) * 3))
    images = pixels(max(2, batch))
    images = images if shape is None else images.new_zeros(len(images), *shape)
    return Probe(network.eval(), images, runtime=runtime, n_classes=n_classes, batch=batch)


def layout(network, **options):
    return probe(network, **options).runtime().memory_format


# -- what is accepted -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_plain_network_runs_on_channels_last_images_and_is_left_alone(precision, caplog):
    network = Plain()
    before = copy.deepcopy(network.state_dict())
    torch.manual_seed(1)
    expected = torch.rand(2)
    torch.manual_seed(1)
    assert layout(network, precision=precision) is torch.channels_last
    assert torch.equal(torch.rand(2), expected)
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    assert not network.training
    assert all(parameter.grad is None for parameter in network.parameters())
    assert caplog.text == ""


def test_view_runs_on_contiguous_images(caplog):
    with caplog.at_level(logging.WARNING):
        assert layout(Viewing()) is torch.contiguous_format
    assert "the network runs on contiguous images, since it fails on channels-last ones" in caplog.text
    assert "view size is not compatible" in caplog.text


def test_view_in_training_mode_alone_runs_on_contiguous_images():
    def forward(net, x):
        x = net.maps(x)
        return net.fc(x.view(x.size(0), -1) if net.training else x.flatten(1))

    assert layout(Changed(forward)) is torch.contiguous_format


@pytest.mark.parametrize(
    "gather",
    [
        lambda main, aux: (main, aux),
        lambda main, aux: [main, [aux]],
        Outputs,
        lambda main, aux: {"aux": aux, "logits": main},
        lambda main, aux: Outputs(main, None),
        lambda main, aux: {"out": main, "features": aux[:, :2]},
    ],
)
def test_auxiliary_answers_in_training_mode(gather):
    assert layout(Helped(gather)) is torch.channels_last


def test_randomness_in_training_mode_is_fine():
    layout(Changed(lambda net, x: net.fc(F.dropout(net.maps(x).flatten(1), training=net.training))))


def test_batches_of_a_certain_size_in_training_mode():
    """Ghost batch normalisation and the like, which count on the recipe's batch."""

    def forward(net, x):
        x = net.maps(x)
        if net.training:
            x = x.reshape(len(x) // 4, 4, *x.shape[1:]).reshape(-1, *x.shape[1:])
            assert len(x) >= 4
        return net.fc(x.flatten(1))

    looked = probe(Changed(forward))
    assert looked.runtime().memory_format is torch.channels_last
    assert len(looked.batch) == 16


def single_places():
    """Maps of one place: BatchNorm can't be trained on one image of them."""
    return nn.Sequential(nn.Conv2d(3, 4, 8), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 4))


def test_batches_of_one_image():
    assert layout(single_places(), batch=2) is torch.channels_last
    assert layout(Plain(), batch=1) is torch.channels_last
    told = r"must train on batches of one image, .* but fails: Expected more than 1 .* \(in '1' \(BatchNorm2d\)\)\. Set"
    with pytest.raises(NetworkError, match=told):
        layout(single_places(), batch=1)


# -- what is refused ------------------------------------------------------------------------------------------------


def drawn(net, x):
    return net.fc(F.dropout(net.maps(x), training=True).flatten(1))


def counted(net, x):
    net.n_calls = getattr(net, "n_calls", 0) + 1
    return net.fc(net.maps(x).flatten(1)) * net.n_calls


class Noise(nn.Module):
    def forward(self, x):
        return x + 0.1 * torch.randn_like(x)


class Raising(nn.Module):
    def forward(self, x):
        raise ValueError("no such luck\nwith more lines")


def middle(layer):
    """A layer of its own between the two of the network."""
    return Changed(
        lambda net, x: net.fc(F.relu(net.norm2(net.conv2(net.middle(net.first(x))))).flatten(1)), middle=layer
    )


@pytest.mark.parametrize(
    ("network", "told"),
    [
        (lambda: Changed(drawn), r"alike each time .* at random or counted in the `forward` of Changed itself"),
        (lambda: middle(Noise()), r"alike each time .* logits moved by .* counted in 'middle' \(Noise\)\. Let it"),
        (lambda: Changed(counted), r"alike each time .* in the `forward` of Changed itself"),
        (
            lambda: middle(nn.BatchNorm2d(8, track_running_stats=False)),
            r"answer each image by itself in evaluation mode, .* mixed in 'middle' \(BatchNorm2d\)\. Use statistics",
        ),
        (
            lambda: Changed(lambda net, x: net.fc(net.maps(x).flatten(1)) - net.fc(net.maps(x).flatten(1)).mean(0)),
            r"answer each image by itself .* mixed in the `forward` of Changed itself",
        ),
        (
            lambda: Changed(lambda net, x: net.fc(net.maps(x).flatten(1)).squeeze()),
            r"a single image with logits of shape \(1, 4\), but gave a tensor of shape \(4,\)\. `x\.squeeze\(\)` drops",
        ),
        (
            lambda: Changed(lambda net, x: net.fc(net.maps(x).reshape(2, -1))),
            r"must accept a single image, but failed on it, while it takes 2 at once: .* \(in 'fc' \(Linear\)\)\. Take",
        ),
        (
            lambda: Changed(lambda net, x: {"logits": net.fc(net.maps(x).flatten(1))}),
            r"one tensor in evaluation mode, .* but gave a dict \(logits: tensor \(2, 4\)\)\. Return the logits alone",
        ),
        (lambda: Changed(lambda net, x: (net.fc(net.maps(x).flatten(1)), x)), r"but gave a tuple \(tensor \(2, 4\), "),
        (lambda: Changed(lambda net, x: None), r"one tensor in evaluation mode, .* but gave None"),
        (lambda: Changed(lambda net, x: (net.fc(net.maps(x).flatten(1)) * 9).long()), r"numbers of type torch\.int64"),
    ],
)  # fmt: skip
def test_evaluation_mode(network, told):
    with pytest.raises(NetworkError, match=told):
        layout(network())


@pytest.mark.parametrize(
    ("network", "told"),
    [
        (lambda: Plain(n_classes=3), r"shape \(N, 4\) or wider, but gave \(2, 3\)\. The labels say 4 classes"),
        (lambda: Changed(lambda net, x: net.maps(x)), r"but gave \(2, 12, 4, 4\)\. Take the mean over what"),
        (lambda: Changed(lambda net, x: net.maps(x).sum()), r"but gave \(\)\. Check what `forward` returns"),
        (lambda: Plain(in_channels=1), r"failed on them: Given groups=1, .* \(in 'conv1' \(Conv2d\)\)\. Choose"),
        (
            lambda: Changed(lambda net, x: net.fc(net.maps(x).transpose(1, 2).view(len(x), -1))),
            r"failed on them: view size is not .* \(in the `forward` of Changed itself\)\. Write `reshape` in place",
        ),
    ],
)  # fmt: skip
def test_data_that_do_not_fit(network, told):
    with pytest.raises(DataError, match=told):
        layout(network())


def test_numbers_that_are_not_finite():
    network = Plain()
    with torch.no_grad():
        network.norm2.running_var[0] = torch.nan
    with pytest.raises(
        NetworkError, match=r"finite numbers, but does not: they are lost in 'norm2' \(BatchNorm2d\)\. Its"
    ):
        layout(network)


def in_training(change):
    """Answers as the plain one in evaluation mode."""

    def forward(net, x):
        logits = net.fc(net.maps(x).flatten(1))
        return change(logits) if net.training else logits

    return Changed(forward)


def failing_in_training(net, x):
    x = net.maps(x)
    return net.fc((net.late(x) if net.training else x).flatten(1))


def overwritten(net, x):
    kept = torch.sigmoid(net.fc(net.maps(x).flatten(1)))
    return kept.add_(1) if net.training else kept + 1


@pytest.mark.parametrize(
    ("network", "told"),
    [
        (
            lambda: in_training(lambda logits: (logits[:, :3], logits)),
            r"shape \(2, 4\) in training mode too, but gave a tuple \(tensor \(2, 3\), tensor \(2, 4\)\)\. Return them",
        ),
        (lambda: in_training(lambda logits: None), r"must answer with logits in training mode, but gave None"),
        (lambda: in_training(lambda logits: logits.argmax(1)), r"in training mode too, but gave a tensor of shape"),
        (lambda: in_training(lambda logits: logits / 0), r"finite numbers in training mode too, but does not"),
        (lambda: in_training(lambda logits: logits.detach()), r"weights that can be trained, but `forward` cuts them"),
        (lambda: Changed(overwritten), r"have gradients in training mode, but they fail: one of the .* in place"),
        (
            lambda: Changed(failing_in_training, late=Raising()),
            r"in training mode on 16 images .* but fails: no such luck \(in 'late' \(Raising\)\)\. Mend that branch",
        ),
    ],
)  # fmt: skip
def test_training_mode(network, told):
    with pytest.raises(NetworkError, match=told):
        layout(network())


def test_what_can_t_be_copied():
    network = Plain()
    network.kept = network.fc.weight * 2
    with pytest.raises(NetworkError, match=r"must be copyable, but .*Keep no computed tensors in it"):
        layout(network)


def test_what_does_not_run_in_the_study_s_precision():
    network = Changed(lambda net, x: net.fc(net.maps(x).flatten(1)) @ torch.ones(4, 4, dtype=torch.float32).to(x))
    assert layout(network, precision="bfloat16") is torch.channels_last  # Mixed types are cast by autocast.

    def forward(net, x):
        x = net.fc(net.maps(x).flatten(1))
        return torch.ones(len(x), 4).index_add(0, torch.arange(len(x)), x)

    assert layout(Changed(forward)) is torch.channels_last
    with pytest.raises(NetworkError, match=r"must run with `precision` = 'bfloat16', but fails: .* Set `precision` ="):
        layout(Changed(forward), precision="bfloat16")
