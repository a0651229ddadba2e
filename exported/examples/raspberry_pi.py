"""Classify a 28×28 picture with LiteRT alone: white digit on black, as in MNIST.

pip install ai-edge-litert numpy pillow
python raspberry_pi.py digit.png
"""

import json
import sys
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from PIL import Image

exported = Path(__file__).resolve().parents[1]
manifest = json.loads((exported / "manifest.json").read_text(encoding="utf-8"))
threshold = manifest["files"]["lenet5_int8.tflite"]["threshold"]

interpreter = Interpreter(str(exported / "lenet5_int8.tflite"))
interpreter.allocate_tensors()
(model_input,) = interpreter.get_input_details()
(model_output,) = interpreter.get_output_details()

image = np.asarray(Image.open(sys.argv[1]).convert("L"), np.int16)  # 0 = background, 255 = ink
interpreter.set_tensor(model_input["index"], (image - 128).astype(np.int8).reshape(1, 28, 28, 1))
interpreter.invoke()
scores = interpreter.get_tensor(model_output["index"])[0]
confidence = (int(scores.max()) + 128) / 256

print(scores.argmax() if confidence >= threshold else "no digit", confidence)
