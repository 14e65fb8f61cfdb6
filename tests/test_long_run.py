"Nothing grows; 500 forecasts and 2,000 steps by `python tests/campaign/long_run.py`"

import pytest
from campaign.long_run import forecasts, measure, training


@pytest.mark.parametrize(
    'work, n, warm', [(forecasts, 30, 10), (training, 100, 30)], ids=['forecasts', 'training']
)
def test_memory_and_descriptors_stay_flat(work, n, warm):
    held = measure(work, n, warm)
    first, last = held[warm], held[n]
    assert last.descriptors == first.descriptors
    assert last.rss - first.rss < 30, f'from {first} to {last}'
