"""The model card of a published folder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from keras_lenet import models
from keras_lenet.artifacts import Record
from keras_lenet.data import catalogue
from keras_lenet.evaluation import results
from keras_lenet.recipe import Recipe

if TYPE_CHECKING:
    from keras_lenet.seeds import Finished

HASHED = (".keras", ".tflite", ".c")
"""The card has the hashes of these files: weights, in every form."""


def card(finished: list[Finished], chosen: Finished, table: str, source: str) -> str:
    """Return the model card, after Mitchell et al., "Model Cards for Model Reporting" (2019).

    Args:
        finished: the runs of all seeds.
        chosen: that whose files are published.
        table: their accuracies, in Markdown.
        source: what the runs are of, as on the command line.
    """
    recipe, metrics = chosen.run.recipe, chosen.metrics
    data, train = recipe.data, recipe.train
    low, high = metrics["models"]["int8"]["interval"]
    seeds = ", ".join(str(one.run.recipe.seed) for one in finished)
    name, title = recipe.model.name, models.find(recipe.model.name).title
    shows, outputs, use, limits = _of_classes(metrics)
    best = "lowest divergence from the teachers" if recipe.distill else "highest accuracy"
    return f"""# {name}: {shows}, int8

Made by `keras-lenet publish {source} --seeds {len(finished)}`.

## What it is

One grey image of 28×28 pixels in, the probabilities of {outputs} out. The network: {title}; what
brings images to its own size, and the softmax, are inside the file.

| file | input | output |
|---|---|---|
| `{name}_int8.tflite` | int8, `pixel - 128` | int8, `probability = (value + 128) / 256` |
| `{name}_uint8.tflite` | uint8, the pixel | uint8, `probability = value / 256` |
| `{name}_int8_ptq.tflite` | as int8; quantized after training, for comparison | as int8 |
| `microcontroller/{name}_int8_plain.tflite` | the same, laid out for microcontrollers | as int8 |
| `{name}_float32.tflite` | float32, `pixel / 255` | float32, the probability |
| `saved_model/`, signature `serving_default` | uint8 `images`, any number | `probabilities` and \
`class` |
| `model.keras` | float32 in [0, 1], resized to the model's own size | logits, not calibrated |

Shapes are (1, 28, 28, 1) and (1, 10). 0 is background, 255 is ink: white on black, as in MNIST.
`manifest.json` has the contract, the sizes and the hashes for programs, `SHA256SUMS` the hash of
every file (`sha256sum -c SHA256SUMS` checks them); `budget.md` has the flash,
RAM and arithmetic of the int8 file on microcontrollers.

## Hashes

{_hashes(chosen, source)}

## Intended use

{use}

## Figures

{results.markdown(metrics)}
The fake-quantized model and `{name}_int8.tflite` give one class on
{metrics["fake_quantized_agreement"]:.2%} of the test images.

Over the seeds {seeds}:

{table}

The published one is seed {recipe.seed}: of these it has the best accuracy on the validation split,
{chosen.validation_accuracy:.2%}.

![Confusion matrices](confusion.png)

## {results.rejection_heading(metrics)}

{results.rejection(metrics)}
The threshold is in the file's metadata and in `manifest.json`. It refuses
{recipe.export.refuse:.1%} of the validation images.

![Test images refused against other pictures refused, by threshold](rejection.png)

## Training

- Data: the training set of {metrics["dataset"]}, less {data.validation_split:.0%} of every class
  for validation, the same images for every seed.
- Mixed in, {data.outliers:.0%} as many: drawn letters, signs, scribbles and noise, with the even
  distribution as their target.
- Augmentation: {_augmentation(recipe)}.
{_teachers(chosen)}\
- In float: {train.epochs} epochs of {train.optimizer}, learning rate {train.learning_rate:g},
  weights averaged with momentum {train.weight_averaging:g}. Kept: the epoch of {best}
  on the validation images.
- With quantization in the loop and the same loss: {recipe.quantize.epochs} epochs, learning rate
  {recipe.quantize.learning_rate:g}. Kept: the epoch of highest accuracy on the validation images.

All settings are in `manifest.json`, and the images that calibrated the post-training
file in `calibration.json`.

![Training curves](training.png)

## Limits

{limits}
- An accuracy on {metrics["images"]:,} images is known to about ±{50 * (high - low):.2f} points.
"""


DIGITS = (
    "the digits 0 to 9",
    """\
Single digits, written by hand, scaled to 20×20 pixels and centred by their centre of mass in
28×28, as MNIST's are. For phones, browsers, single-board computers and microcontrollers, and for
teaching. Not meant for decisions about people, such as reading cheques or ballots unattended.""",
    """\
- To a letter or a scribble, too, the file gives ten probabilities. Whoever reads them has to refuse
  what lies below the threshold; some of it lies above, and letters that look like digits mostly do.
- Ink must be bright on dark, and centred: other pictures need preparing first.
- It has learnt from {dataset} alone. MNIST's writers were American census employees and
  school pupils, about 1990; digits written otherwise, such as a 7 with a bar, are rarer there.""",
)
OTHERS = (
    "ten classes",
    """\
Images like those of {dataset}, bright on dark, of these classes in this order: {classes}. To
measure networks and quantization on, and for teaching. `keras-lenet classify` and `draw` are not
for it: they prepare pictures as MNIST's digits are, and answer with the number of the class.""",
    """\
- To a picture of anything else, too, the file gives ten probabilities. Whoever reads them has to
  refuse what lies below the threshold; some of it lies above.
- The pictures to be refused, and the preparation of corrupted images, are made for digits.
- It has learnt from {dataset} alone.""",
)


def _hashes(chosen: Finished, source: str) -> str:
    """Return the SHA-256 of the published weights, with the command that gives each."""
    outputs = {
        name: digest
        for stage in ("train", "export")
        for name, digest in Record.of_finished(chosen.run.stage_folder(stage)).outputs.items()
        if name.endswith(HASHED)
    }
    command = f"keras-lenet run {source} --set seed={chosen.run.recipe.seed}"
    rows = "\n".join(f"| `{name}` | `{digest}` | `{command}` |" for name, digest in outputs.items())
    return f"""\
On the same kind of CPU, with as many threads and the versions that `manifest.json` names, the
command gives the same bytes:

| file | SHA-256 | command that gives it |
|---|---|---|
{rows}"""


def _of_classes(metrics: dict[str, Any]) -> list[str]:
    """What the card says of digits or of other classes: what they show, outputs, use, limits."""
    dataset, classes = metrics["dataset"], ", ".join(metrics["labels"])
    texts = DIGITS if results.of_digits(metrics) else OTHERS
    filled = [text.format(dataset=dataset, classes=classes) for text in texts]
    return [catalogue.shows(dataset), *filled]


def _augmentation(recipe: Recipe) -> str:
    """What is done to training images, in words."""
    augment, degrade = recipe.augment, recipe.degrade
    changes = [
        (augment.rotate, f"rotation ±{augment.rotate:g}°"),
        (augment.shift, f"shift ±{augment.shift:g} pixels"),
        (augment.zoom, f"zoom ±{augment.zoom:.0%}"),
        (augment.shear, f"shear ±{augment.shear:g}"),
        (augment.elastic, f"elastic distortion, {augment.elastic:g} pixels"),
        (augment.thickness, f"strokes ±{augment.thickness:g} pixels"),
    ]
    harms = [
        (degrade.light, f"other greys in {degrade.light:.0%}"),
        (degrade.clouds, f"clouds to {degrade.clouds:g} times full ink"),
        (degrade.noise, f"noise to {degrade.noise:g} of full ink"),
        (degrade.occlusion, f"grey rectangles to {degrade.occlusion:g} pixels a side"),
    ]
    warped, spoilt = (
        ", ".join(text for amount, text in kind if amount) for kind in (changes, harms)
    )
    if spoilt and degrade.share < 1:
        spoilt = f"{degrade.share:.0%} of the images spoilt: {spoilt}"
    return "; ".join(part for part in (warped, spoilt) if part) or "none"


def _teachers(chosen: Finished) -> str:
    """A line about distillation, where there was any."""
    distill = chosen.run.recipe.distill
    if distill is None:
        return ""
    record = Record.of_finished(chosen.run.stage_folder("distill"))
    accuracy = record.summary["validation_accuracy"]
    return (
        f"- Distilled, at temperature {distill.temperature:g}, from {distill.teachers} of the "
        f"architecture `{distill.model}`,\n  trained {distill.train.epochs} epochs on labels; "
        f"validation accuracy {accuracy:.2%}.\n"
    )
