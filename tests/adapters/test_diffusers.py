"""tcdecomp_adapters.diffusers: encode for its autoencoders, and the loop in place of attach."""

import diffusers
import pytest
import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from torch import nn

import reference
from tcdecomp import Posterior, TCDecomposition, attach, encode
from tcdecomp.plugins import NoAdapterError
from tcdecomp.plugins.attachment import Attachment
from tcdecomp.testing import check_attach, check_encode
from tolerances import assert_close

N = 100
BLOCKS = {"block_out_channels": (8, 8), "norm_num_groups": 4}


def images(*shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


X = images(6, 3, 8, 8)


def autoencoder(kind=diffusers.AutoencoderKL):
    torch.manual_seed(0)
    return kind(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=2,
        **BLOCKS,
    )


def asymmetric():
    return diffusers.AsymmetricAutoencoderKL(
        down_block_types=("DownEncoderBlock2D",),
        down_block_out_channels=(4,),
        up_block_types=("UpDecoderBlock2D",),
        up_block_out_channels=(4,),
        latent_channels=2,
        norm_num_groups=4,
    )


def of_frames():
    return diffusers.AutoencoderKLTemporalDecoder(
        down_block_types=("DownEncoderBlock2D",), block_out_channels=(32,), latent_channels=2
    )


def of_videos():
    return diffusers.AutoencoderKLCogVideoX(
        down_block_types=("CogVideoXDownBlock3D",) * 4,
        up_block_types=("CogVideoXUpBlock3D",) * 4,
        block_out_channels=(8,) * 4,
        latent_channels=2,
        layers_per_block=1,
        norm_num_groups=4,
    )


def of_audio():
    return diffusers.AutoencoderOobleck(
        encoder_hidden_size=8,
        downsampling_ratios=[2, 4],
        channel_multiples=[1, 2],
        decoder_channels=8,
        decoder_input_channels=4,
        audio_channels=1,
    )


@pytest.mark.parametrize(
    ("model", "batch", "width"),
    [
        (autoencoder, X, 2 * 4 * 4),
        (asymmetric, X, 2 * 8 * 8),
        (of_frames, X, 2 * 8 * 8),
        (of_videos, images(2, 3, 1, 16, 16), 2 * 2 * 2),
        pytest.param(
            of_audio,
            images(4, 1, 32),
            4 * 4,
            # Of torch, about what diffusers calls.
            marks=pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning"),
        ),
    ],
)
def test_encode_holds_to_the_contract(model, batch, width):
    torch.manual_seed(0)
    vae = model()
    check_encode(vae, batch)
    assert encode(vae, batch).mu.shape == (len(batch), width)


def test_the_moments_are_those_of_latent_dist_item_by_item():
    vae = autoencoder()
    posterior = encode(vae, X)
    latent = vae.encode(X[2:3]).latent_dist
    assert_close(posterior.mu[2].view(2, 4, 4), latent.mean[0], torch.float32)
    assert_close(posterior.logvar[2].view(2, 4, 4), latent.logvar[0], torch.float32)


def test_the_log_variance_is_the_clamped_one():
    vae = autoencoder()
    nn.init.zeros_(vae.quant_conv.weight)
    nn.init.constant_(vae.quant_conv.bias, 100)
    assert (encode(vae, X).logvar == 20).all()


def test_slices_of_the_batch_come_back_as_one():
    vae = autoencoder()
    whole = encode(vae, X)
    vae.enable_slicing()
    assert_close(encode(vae, X).mu, whole.mu, torch.float32)


def test_half_precision_is_sampled_in_float32():
    posterior = encode(autoencoder().to(torch.bfloat16), X.bfloat16())
    assert posterior.mu.dtype == torch.bfloat16
    assert posterior.z.dtype == torch.float32


class Derived(diffusers.AutoencoderKL):
    """A class whose author returns the distribution itself."""

    def encode(self, x):
        return super().encode(x).latent_dist


class Moments(Derived):
    def encode(self, x):
        latent = super().encode(x)
        return latent.mean.flatten(1), latent.logvar.flatten(1)


@pytest.mark.parametrize("kind", [Derived, Moments])
def test_a_derived_class_may_return_what_the_output_holds(kind):
    assert torch.equal(encode(autoencoder(kind), X).mu, encode(autoencoder(), X).mu)


def test_a_deterministic_distribution_is_refused():
    class Deterministic(diffusers.AutoencoderKL):
        def encode(self, x):
            return DiagonalGaussianDistribution(super()._encode(x), deterministic=True)

    with pytest.raises(TypeError, match=r"Deterministic must encode to a distribution; got a det"):
        encode(autoencoder(Deterministic), X)


@pytest.mark.parametrize(
    ("model", "answer"),
    [
        (lambda: diffusers.VQModel(block_out_channels=(4,), norm_num_groups=4), "VQEncoderOutput"),
        (lambda: diffusers.AutoencoderTiny(), "AutoencoderTinyOutput"),
    ],
)
def test_an_autoencoder_without_posterior_is_refused_by_name(model, answer):
    vae = model()
    with pytest.raises(TypeError, match=rf"{type(vae).__name__} must give .*: got {answer}$"):
        encode(vae, X)


def test_a_posterior_without_variance_is_refused_by_name():
    class Identity(diffusers.AutoencoderKL):
        def encode(self, x):
            output = super().encode(x)
            output.latent_dist = diffusers.models.autoencoders.vae.IdentityDistribution(x)
            return output

    with pytest.raises(TypeError, match=r"Identity must give .*: got IdentityDistribution$"):
        encode(autoencoder(Identity), X)


def test_another_model_that_returns_diffusers_distribution_has_the_posterior_flattened():
    class Theirs(nn.Module):
        def encode(self, x):
            return autoencoder().encode(x).latent_dist

    latent = Theirs().encode(X)
    posterior = encode(Theirs(), X)
    assert posterior.mu.shape == latent.mean.flatten(1).shape


def test_a_model_that_encodes_nothing_is_not_the_adapters():
    scheduler = diffusers.DDPMScheduler()
    for ask in (lambda: encode(scheduler, X), lambda: attach(scheduler, TCDecomposition(), N)):
        with pytest.raises(NoAdapterError, match=r"for a model of type diffusers\."):
            ask()


def test_attach_tells_the_line_to_write():
    vae = autoencoder()
    with pytest.raises(NoAdapterError, match=r"AutoencoderKL has none") as raised:
        attach(vae, TCDecomposition(), N)
    assert Attachment.of(vae) is None
    line = str(raised.value).split("mean(): ")[1]
    latent = vae.encode(X).latent_dist
    names = {"latent": latent, "z": latent.sample(), "dataset_size": N}
    loss = eval(line, names | {"criterion": TCDecomposition()})
    assert_close(loss, latent.kl().mean(), torch.float32)


def test_a_derived_class_with_a_seam_is_left_to_its_adapter():
    class WithSeam(diffusers.AutoencoderKL):
        def kl_loss(self, z, mu, logvar):
            return 0.5 * (mu**2 + logvar.exp() - 1 - logvar).sum(1).mean()

        def loss(self, x):
            latent = self.encode(x).latent_dist
            z = latent.sample()
            kl = self.kl_loss(z.flatten(1), latent.mean.flatten(1), latent.logvar.flatten(1))
            return (self.decode(z).sample - x).square().flatten(1).sum(1).mean() + kl

    check_attach(autoencoder(WithSeam), lambda model: model.loss(X), N)


# The user's loop


def kl_of(latent, z):
    return latent.kl().mean()


def with_criterion(**weights):
    criterion = TCDecomposition(**weights)

    def kl(latent, z):
        return criterion(z.flatten(1), latent.mean.flatten(1), latent.logvar.flatten(1), N)

    return kl


def loss_of(vae, kl, weight=1.0):
    latent = vae.encode(X).latent_dist
    z = latent.sample()
    reconstruction = (vae.decode(z).sample - X).square().flatten(1).sum(1).mean()
    return reconstruction + weight * kl(latent, z)


def trained(kl, steps=5):
    vae = autoencoder()
    optimizer = torch.optim.SGD(vae.parameters(), 1e-4)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = loss_of(vae, kl)
        loss.backward()
        optimizer.step()
    return loss, torch.cat([parameter.flatten() for parameter in vae.parameters()])


def gradient_of(kl):
    vae = autoencoder().double()
    latent = vae.encode(X.double()).latent_dist
    torch.manual_seed(1)
    loss = kl(latent, latent.sample())
    parameters = [*vae.encoder.parameters(), *vae.quant_conv.parameters()]
    return loss, torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)])


def test_equal_weights_are_diffusers_kl_and_its_gradient():
    (loss, gradient), (expected, expected_gradient) = map(gradient_of, (with_criterion(), kl_of))
    assert_close(loss, expected)
    assert_close(gradient, expected_gradient)


def test_other_weights_add_the_total_correlation():
    vae = autoencoder().double()
    latent = vae.encode(X.double()).latent_dist
    z = latent.sample()
    rows = [t.flatten(1).tolist() for t in (z, latent.mean, latent.logvar)]
    _, total_correlation, _ = reference.terms(*rows, N, reference.mss_row)
    tc = sum(total_correlation) / len(X)
    assert_close(with_criterion(beta=6)(latent, z), latent.kl().mean() + 5 * tc)


def test_training_with_equal_weights_is_training_without_the_criterion():
    loss, parameters = trained(with_criterion())
    expected_loss, expected = trained(kl_of)
    assert_close(loss / expected_loss, 1.0, torch.float32)
    assert_close(parameters, expected, torch.float32)
    assert (trained(with_criterion(beta=6))[1] - expected).abs().max() > 1e-4


def test_what_encode_returns_can_be_decoded_and_trained():
    vae = autoencoder()
    posterior = encode(vae, X)
    assert isinstance(posterior, Posterior)
    output = vae.decode(posterior.z.view(6, 2, 4, 4)).sample
    TCDecomposition(beta=6)(posterior.z, posterior.mu, posterior.logvar, N).backward()
    assert output.shape == X.shape
    assert vae.quant_conv.weight.grad.abs().sum() > 0
