__version__ = "0.1.0"

from importlib import import_module as _import_module

_HOMES = { # public name → module that defines it; loaded when it is asked for
    'open_hand': 'geometry.hand_models',
    'load_hand': 'geometry.hand_models',
    'motion_metrics': 'evaluation.metrics',
    'load_official': 'released.checkpoints',
    'load_hamer_backbone': 'released.checkpoints',
    'open_dataset': 'catalogue',
    'load_forecaster': 'models.forecasting',
    'load_lifter': 'models.lifting',
    'refine': 'fitting.refinement',
    'track_video': 'video.tracks',
    'film_sequence': 'video.footage',
}
__all__ = sorted(_HOMES)


def __getattr__(name):
    "A public name, from its module"
    if name not in _HOMES:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}; public: {", ".join(__all__)}')
    return getattr(_import_module(f'{__name__}.{_HOMES[name]}'), name)


def __dir__():
    return sorted([*globals(), *__all__])
