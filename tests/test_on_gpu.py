"What only a GPU can show; skipped without one, and started there by tools/gpu.sh"

import copy
import pytest
import torch
from forehand4d.models.forecaster import build_forecaster
from forehand4d.networks.transformer import compile_layers
from forehand4d.study.network_speed import OnGPU
from forehand4d.study.speed_rows import bench_clips

pytestmark = pytest.mark.gpu
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU that torch can use')
NEAR = 0.01  # metres; half precision against single


@pytest.fixture(scope='module')
def clips():
    "A few small clips on the GPU"
    return bench_clips('tiny', 4, 'cuda')


@pytest.fixture
def model(clips):
    "A small random network on the GPU"
    return build_forecaster(clips.profile, weights='none').to('cuda').eval()


def forecast(network, clips):
    "Wrists of one future"
    one = clips.batch.rows(slice(1))
    return network.forecast(one.image, one.image_K, samples=1, seed=0).wrist.cpu()


@needs_gpu
def test_a_forecast_is_finite_and_the_same_again(model, clips):
    first = forecast(model, clips)
    assert first.isfinite().all()
    torch.testing.assert_close(forecast(model, clips), first, rtol=0, atol=1e-4)


@needs_gpu
def test_compiled_layers_forecast_the_same(model, clips):
    plain = forecast(model, clips)
    compile_layers(model)
    torch.testing.assert_close(forecast(model, clips), plain, rtol=0, atol=NEAR)


@needs_gpu
def test_cuda_graphs_forecast_the_same(model, clips):
    plain = forecast(model, clips)
    model.net.compile(mode='reduce-overhead')
    model.backbone.compile(mode='reduce-overhead')
    for _ in range(3):  # recorded, then replayed
        torch.testing.assert_close(forecast(model, clips), plain, rtol=0, atol=NEAR)


@needs_gpu
def test_a_training_step_moves_the_weights(model, clips):
    before = copy.deepcopy(model.state_dict())
    on_gpu = OnGPU(model, clips, 4)
    on_gpu.step()
    after = model.state_dict()
    assert all(value.isfinite().all() for value in after.values() if value.is_floating_point())
    assert any((after[name] != value).any() for name, value in before.items())
