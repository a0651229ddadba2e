"""LeNet-5 in Keras, from MNIST to a measured int8 TFLite file.

    from keras_lenet import Classifier, prepare, load_recipe, run_recipe

    Classifier     classifies 28×28 images, photos and drawings with a .tflite file
    prepare        turns a photo or a drawing of one digit into a 28×28 image
    load_recipe    reads a recipe file, the settings of every stage
    run_recipe     runs the stages of a recipe that are not up to date

The first two need the base install alone, the other two `keras-lenet[train]`.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from keras_lenet.edge.classifier import Classifier
    from keras_lenet.edge.prepare import prepare
    from keras_lenet.pipeline import run_recipe
    from keras_lenet.recipe import load_recipe

__version__ = "0.1.0"
__all__ = ["Classifier", "load_recipe", "prepare", "run_recipe"]

_MODULES = {
    "Classifier": "edge.classifier",
    "load_recipe": "recipe",
    "prepare": "edge.prepare",
    "run_recipe": "pipeline",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that `import keras_lenet` stays light."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
