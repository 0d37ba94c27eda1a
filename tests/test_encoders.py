"""Backbones have the published sizes and names, and begin with public weights where these are given."""

import pytest
import torch

from fiducial.encoders import EfficientNetLite, Encoder, build_encoder, load_public_lite
from fiducial.layers import fold_norms


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize(("name", "parameters"), [("resnet18", 11_176_512), ("resnet50", 23_508_032)])
def test_resnets_have_the_published_number_of_parameters(name: str, parameters: int) -> None:
    assert sum(p.numel() for p in build_encoder(name, 3).parameters()) == parameters


def test_resnet_keeps_torchvision_names() -> None:
    names = set(build_encoder("resnet18", 3).state_dict())
    assert {"conv1.weight", "bn1.running_var", "layer1.0.conv2.weight", "layer2.0.downsample.0.weight"} <= names
    assert "layer1.0.downsample.0.weight" not in names


@pytest.mark.parametrize("name", ["resnet18_half", "lite0"])
def test_encoders_halve_the_size_five_times_and_state_their_channels(name: Encoder) -> None:
    encoder = build_encoder(name, 1).eval()
    maps = encoder(torch.rand(1, 1, 96, 160))
    assert [m.shape[1:] for m in maps] == [(c, 96 >> i, 160 >> i) for i, c in enumerate(encoder.channels, start=1)]


def test_lite_has_the_published_number_of_parameters() -> None:
    """4.65 million with the head's 1×1 convolution, its normalization and the classifier, which are left out here."""
    left_out = 320 * 1280 + 2 * 1280 + 1281 * 1000
    assert sum(p.numel() for p in EfficientNetLite(3).parameters()) == 4_652_008 - left_out


def test_lite_shifts_with_the_image() -> None:
    encoder = EfficientNetLite(3).eval()
    image = torch.rand(1, 3, 512, 512)
    whole, part = encoder(image)[3], encoder(image[..., 64:, 64:])[3]  # at stride 16
    assert whole.std() > 0
    torch.testing.assert_close(whole[..., 20:-8, 20:-8], part[..., 16:-8, 16:-8], rtol=1e-3, atol=1e-4)


def test_lite_answers_the_same_with_its_norms_folded() -> None:
    encoder = EfficientNetLite(3)
    encoder(torch.rand(4, 3, 64, 64))  # moves the statistics
    image = torch.rand(1, 3, 64, 64)
    for folded, own in zip(fold_norms(encoder)(image), encoder.eval()(image), strict=True):
        torch.testing.assert_close(folded, own, rtol=1e-3, atol=1e-4)


def test_public_weights_see_the_image_as_they_were_trained_to() -> None:
    """To half a level: (b - 127) / 128 of a byte b, b / 255 - 0.5 to ours; a fourth channel begins with no effect."""
    public, ours = EfficientNetLite(3), EfficientNetLite(4)
    given = {f"other_name_{i}": t for i, t in enumerate(public.state_dict().values())} | {"classifier": torch.zeros(3)}
    load_public_lite(ours, given)
    image = torch.randint(0, 256, (1, 3, 64, 64)).float()
    expected = public.eval()((image - 127.5) / 128)
    seen = ours.eval()(torch.cat([image / 255 - 0.5, torch.randn(1, 1, 64, 64)], dim=1))
    for own, other in zip(seen, expected, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-3, atol=1e-4)


def test_weights_of_another_network_are_refused() -> None:
    with pytest.raises(ValueError, match="tensors of EfficientNet-Lite0"):
        load_public_lite(EfficientNetLite(4), build_encoder("resnet18", 3).state_dict())
    with pytest.raises(ValueError, match="tensors of EfficientNet-Lite0"):  # of gray images
        load_public_lite(EfficientNetLite(4), EfficientNetLite(1).state_dict())
