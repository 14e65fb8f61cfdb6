__version__ = "0.1.0"

from importlib import import_module as _import_module

_HOMES = { # public name → module that defines it; loaded when it is asked for
    'open_hand': 'hands',
    'load_hand': 'hands',
    'motion_metrics': 'metrics',
    'load_official': 'official',
    'load_hamer_backbone': 'official',
    'open_dataset': 'data.loaders',
    'load_forecaster': 'forecasting',
    'load_lifter': 'lifting',
    'refine': 'refinement',
    'track_video': 'data.keypoints',
    'film_sequence': 'data.footage',
}
__all__ = sorted(_HOMES)


def __getattr__(name):
    "A public name, from its module"
    if name not in _HOMES:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}; public: {", ".join(__all__)}')
    return getattr(_import_module(f'{__name__}.{_HOMES[name]}'), name)


def __dir__():
    return sorted([*globals(), *__all__])
