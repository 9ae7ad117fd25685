"""Autoencoders: their definitions, and what latents see, against plain autograd of the paper's formula."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

import whylight
from whylight.models import ModelConfig, open_model, wrap_module
from whylight.subject import CancelToken
from whylight.testing import MethodTests, run_inspection, run_method
from whylight_generative import GenerativeSource, LatentGradCAM, LatentTraversal, Reconstruction
from whylight_generative.variational_autoencoder import VAE_32, VAE_128, Decoder, VariationalAutoencoder, divergence

SOURCES = {"vae": GenerativeSource}


def parameters(module):
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.fixture(scope="module")
def network():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return VariationalAutoencoder(VAE_32).eval()


@pytest.fixture(scope="module")
def model(network):
    return wrap_module(
        network,
        transform=whylight.Transform.plain((32, 32), 1),
        output="reconstruction",
        latent="mean",
        last_spatial="encoder.features.5",
    )


@pytest.fixture
def inputs():
    return torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(1))


def test_the_lectures_architecture_has_its_parameters():
    network = VariationalAutoencoder(VAE_128)
    assert parameters(network.encoder) == 1_732_048
    assert parameters(network.decoder) == 916_483
    layers = [parameters(layer) for layer in network.encoder.features if parameters(layer)]
    assert layers == [896, 18_496, 36_928, 36_928]
    assert [parameters(layer) for layer in network.decoder.layers if parameters(layer)] == [36_928, 36_928, 18_464, 867]
    made = network.eval()(torch.zeros(1, 3, 128, 128))
    assert made["reconstruction"].shape == (1, 3, 128, 128)
    assert made["mean"].shape == (1, 200)


def test_a_model_of_it_names_its_latents_and_its_last_maps():
    model = open_model(ModelConfig(name="vae", source="vae:128", weights="random:1"), SOURCES)
    assert model.latent_shape == (200,)
    assert model.output_shape == (3, 128, 128)
    assert model.last_spatial == "encoder.features.7"
    assert whylight.Need.LATENTS in model.capabilities


def test_there_are_no_weights_but_the_operators():
    with pytest.raises(whylight.InvalidInput, match="train one"):
        open_model(ModelConfig(name="vae", source="vae:128"), SOURCES)
    with pytest.raises(whylight.NotFound, match="128-decoder"):
        open_model(ModelConfig(name="vae", source="vae:64", weights="random:1"), SOURCES)


def test_divergence_is_that_of_the_two_normal_distributions():
    mean, log_variance = torch.tensor([0.3, -1.0]), torch.tensor([0.2, -0.7])
    given = torch.distributions.Normal(mean, (log_variance / 2).exp())
    expected = torch.distributions.kl_divergence(given, torch.distributions.Normal(0.0, 1.0))
    torch.testing.assert_close(divergence(mean, log_variance), expected)


def formula(network, input, latent, layer=5):
    """Equations 2 and 3 of Liu et al., by autograd."""
    maps = network.encoder.features[: layer + 1](input[None]).detach().requires_grad_(True)
    rest = network.encoder.features[layer + 1 :](maps)
    (gradient,) = torch.autograd.grad(network.encoder.mean(rest.flatten(1))[0, latent], maps)
    return (gradient.mean((2, 3), keepdim=True) * maps).sum(1)[0].detach()


@pytest.mark.parametrize("layer", [5, 3])
def test_every_latents_map_is_the_papers(network, inputs, layer):
    doubled = VariationalAutoencoder(VAE_32).double().eval()
    doubled.load_state_dict(network.state_dict())
    model = wrap_module(doubled, input_size=(32, 32), output="reconstruction", latent="mean")
    latents = [whylight.Latent(index) for index in range(VAE_32.latents)]
    given = inputs.double()
    made = run_method(LatentGradCAM, model, given, [latents, latents[:3]], {"layer": f"encoder.features.{layer}"})
    rows = [(0, index) for index in range(VAE_32.latents)] + [(1, index) for index in range(3)]
    for maps, (row, latent) in zip(made.maps, rows, strict=True):
        torch.testing.assert_close(maps, formula(doubled, given[row], latent, layer), rtol=1e-10, atol=1e-12)


def test_the_mean_is_that_of_all_rectified_maps(network, model, inputs):
    made = run_method(LatentGradCAM, model, inputs, [whylight.Latent(3), whylight.Latent(1)], {"latents": "mean"})
    for row in range(2):
        each = torch.stack([formula(network, inputs[row], latent).relu() for latent in range(VAE_32.latents)])
        torch.testing.assert_close(made.maps[row], each.mean(0), rtol=1e-4, atol=1e-6)


def test_latents_behind_one_linear_layer_need_no_pass_back(model, inputs, monkeypatch):
    def never(*args, **kwargs):
        raise AssertionError("a pass back")

    run_method(LatentGradCAM, model, inputs, [whylight.Latent(0), whylight.Latent(1)])
    monkeypatch.setattr("whylight.subject.subject.pull_back", never)
    run_method(LatentGradCAM, model, inputs, [whylight.Latent(4), whylight.Latent(5)])
    with pytest.raises(AssertionError, match="a pass back"):  # not linear between: LeakyReLU
        run_method(LatentGradCAM, model, inputs, [whylight.Latent(4)] * 2, {"layer": "encoder.features.3"})


def test_its_cost_is_that_of_the_passes_back_that_it_takes(network, model):
    method, options = LatentGradCAM(), LatentGradCAM.Options
    assert method.costs_on(model, options(latents="mean"))[0] == 1.0  # one linear layer behind: no pass back
    once, again = method.costs_on(model, options(layer="encoder.features.3"))
    assert (once, again) == (2.0, 1.0)
    assert method.costs_on(model, options(layer="encoder.features.3", latents="mean"))[0] == 1.0 + VAE_32.latents


class Decided(torch.nn.Module):
    """Makes its latents of dark pictures in another way than of bright ones."""

    def __init__(self):
        super().__init__()
        self.maps = torch.nn.Conv2d(1, 2, 3)
        self.first, self.second = torch.nn.Linear(2 * 30 * 30, 3), torch.nn.Linear(2 * 30 * 30, 3)

    def forward(self, inputs):
        flat = self.maps(inputs).flatten(1)
        mean = self.first(flat) if inputs.mean() < 0.5 else self.second(flat)
        return {"reconstruction": inputs, "mean": mean}


def test_the_closed_form_of_latents_is_asked_whether_it_holds_for_the_input():
    network = Decided().eval()
    made = wrap_module(network, transform=whylight.Transform.plain((32, 32), 1), output="reconstruction", latent="mean")
    for value, layer in ((0.2, network.first), (0.8, network.second)):
        inputs = torch.full((1, 1, 32, 32), value)
        batch = whylight.Batch(inputs, (whylight.Latent(1),), (0,), CancelToken())
        _, gradients = made.subject().layer_gradients(batch, "maps")
        torch.testing.assert_close(gradients[0], layer.weight[1].detach().view(2, 30, 30))


def test_latents_are_those_of_the_network(network, model, inputs):
    batch = whylight.Batch(inputs, (whylight.Latent(0),) * 2, (0, 1), CancelToken())
    torch.testing.assert_close(model.subject().latents(batch), network.encoder(inputs)[0].detach())


def artifacts(found):
    return {artifact.name: artifact for artifact in found.artifacts}


def test_a_reconstruction_shows_what_is_lost_and_what_each_latent_holds(network, model, inputs):
    _, found = run_inspection(Reconstruction, model, inputs=inputs[:1])
    made = network(inputs[:1])
    shown = artifacts(found)
    pixels = np.asarray(shown["reconstruction"].image(), np.float32) / 255
    np.testing.assert_allclose(pixels, made["reconstruction"][0, 0].detach(), atol=1 / 255)
    error = (inputs[0, 0] - made["reconstruction"][0, 0]).abs().detach()
    drawn = np.asarray(shown["error"].image(), np.float32) / 255
    np.testing.assert_allclose(drawn, error / error.max(), atol=1 / 255)
    held = divergence(made["mean"], made["log_variance"])[0].detach()
    rows = shown["latents"].rows
    assert [row[0] for row in rows] == held.argsort(descending=True).tolist()
    assert found.checks["divergence"] == pytest.approx(held.sum().item(), rel=1e-4)
    mse = (inputs[0] - made["reconstruction"][0]).square().mean().item()
    assert found.checks["psnr"] == pytest.approx(-10 * np.log10(mse), rel=1e-4)


def test_a_traversal_moves_one_latent_and_no_other(network, model, inputs):
    decoder = Decoder(VAE_32)
    decoder.load_state_dict(network.decoder.state_dict())
    served = wrap_module(decoder.eval(), name="decoder", transform=whylight.Transform.plain((1, 1), VAE_32.latents))
    subject = model.subject(None, {"decoder": served})
    task = whylight.InspectionTask(inputs[:1], (whylight.Latent(2), whylight.Latent(7)), 0, CancelToken())
    options = LatentTraversal.Options(decoder="decoder", reach=2.0, steps=3)
    *progress, found = LatentTraversal().inspect(subject, task, options)
    assert [step.step for step in progress] == [1, 2]
    sheet = np.asarray(artifacts(found)["traversal"].image())
    assert sheet.shape[:2] == (2 * 32, 4 * 32)
    code = network.encoder(inputs[:1])[0].detach()
    for row, latent in enumerate((2, 7)):
        for column, value in enumerate((-2.0, 0.0, 2.0)):
            moved = code.clone()
            moved[0, latent] = value
            expected = network.decoder(moved)[0, 0].detach() * 255
            cell = sheet[row * 32 : row * 32 + 32, 32 + column * 32 : 64 + column * 32]
            np.testing.assert_allclose(cell[:, :, 0], expected, atol=1)
    assert artifacts(found)["heat_maps"].array.shape == (2, 4, 4)


def test_what_a_traversal_cannot_do_is_refused(model, inputs):
    task = whylight.InspectionTask(inputs[:1], (), 0, CancelToken())
    with pytest.raises(whylight.InvalidInput, match="at least one latent"):
        next(LatentTraversal().inspect(model.subject(), task, LatentTraversal.Options(decoder="none")))
    task = whylight.InspectionTask(inputs, (whylight.Latent(0),), 0, CancelToken())
    with pytest.raises(whylight.InvalidInput, match="one input"):
        next(LatentTraversal().inspect(model.subject(), task, LatentTraversal.Options(decoder="none")))


def test_pictures_of_one_channel_are_grey(model, inputs):
    _, found = run_inspection(Reconstruction, model, inputs=inputs[:1])
    assert isinstance(artifacts(found)["input"].image(), Image.Image)
    assert artifacts(found)["input"].image().mode == "L"


def test_a_classifier_has_no_latents():
    from whylight.testing import conv_gap_net

    with pytest.raises(whylight.Unsupported, match="latents"):
        run_method(LatentGradCAM, conv_gap_net(), torch.zeros(1, 3, 16, 16), [0])
    assert issubclass(LatentGradCAM, whylight.Attribution)
    assert MethodTests is not None
