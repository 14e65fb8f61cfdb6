__version__ = "0.1.0"

from importlib import import_module as _import_module
from typing import TYPE_CHECKING as _TYPE_CHECKING

if _TYPE_CHECKING: # what editors and type checkers read; nothing is imported when the package runs
    from forehand4d.catalogue import open_dataset as open_dataset
    from forehand4d.evaluation.metrics import motion_metrics as motion_metrics
    from forehand4d.fitting.refinement import refine as refine
    from forehand4d.geometry.hand_models import load_hand as load_hand
    from forehand4d.geometry.hand_models import open_hand as open_hand
    from forehand4d.handworld.export import export_handworld as export_handworld
    from forehand4d.models.forecasting import load_forecaster as load_forecaster
    from forehand4d.models.lifting import load_lifter as load_lifter
    from forehand4d.models.sharing import push_to_hub as push_to_hub
    from forehand4d.released.checkpoints import load_hamer_backbone as load_hamer_backbone
    from forehand4d.released.checkpoints import load_official as load_official
    from forehand4d.video.footage import film_sequence as film_sequence
    from forehand4d.video.tracks import track_video as track_video

_HOMES = { # public name → module that defines it; loaded when it is asked for
    'open_hand': 'geometry.hand_models',
    'load_hand': 'geometry.hand_models',
    'motion_metrics': 'evaluation.metrics',
    'load_official': 'released.checkpoints',
    'load_hamer_backbone': 'released.checkpoints',
    'open_dataset': 'catalogue',
    'export_handworld': 'handworld.export',
    'load_forecaster': 'models.forecasting',
    'load_lifter': 'models.lifting',
    'push_to_hub': 'models.sharing',
    'refine': 'fitting.refinement',
    'track_video': 'video.tracks',
    'film_sequence': 'video.footage',
}
__all__ = sorted(_HOMES)


def __getattr__(
    name: str, # asked for
):
    "A public name, from its module"
    if name not in _HOMES:
        public = ', '.join(__all__)
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}; public: {public}')
    home = _import_module(f'{__name__}.{_HOMES[name]}')
    return getattr(home, name)


def __dir__():
    "Public names beside the module's own"
    return sorted([*globals(), *__all__])
