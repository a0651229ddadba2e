"""Small int8 .tflite files put together op by op, every scale and weight of the test's choice."""

import math

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from keras_lenet.tflite import metadata_writer

VALID, SAME = schema.Padding.VALID, schema.Padding.SAME
NONE, RELU, RELU_N1_TO_1, RELU6, TANH = range(5)
_TYPES = {"int8": schema.TensorType.INT8, "int32": schema.TensorType.INT32}


def edited(model, change):
    """Write the model again, its flatbuffer's objects changed."""
    content = schema.ModelT.InitFromPackedBuf(model.read_bytes(), 0)
    change(content, content.subgraphs[0])
    model.write_bytes(metadata_writer.pack(content))
    return model


def pictures(count, seed=0):
    """Random pixels: of every brightness, in blocks, and sparse; uint8 (count, 28, 28)."""
    generator = np.random.default_rng(seed)
    noise = generator.integers(0, 256, (count, 28, 28))
    noise[::3] = np.kron(generator.integers(0, 256, (len(noise[::3]), 7, 7)), np.ones((4, 4)))
    noise[1::3] *= generator.random((len(noise[1::3]), 28, 28)) < 0.15
    return noise.astype(np.uint8)


class Net:
    """A chain of ops that begins with an image, pixel - 128; each method adds an op."""

    def __init__(self):
        self.content = schema.ModelT()
        self.content.version, self.content.operatorCodes = 3, []
        self.content.buffers = [schema.BufferT()]
        self.graph = schema.SubGraphT()
        self.graph.tensors, self.graph.operators = [], []
        self.content.subgraphs = [self.graph]
        self.shape, self.scale, self.zero = (1, 28, 28, 1), 1 / 255, -128
        self.flowing = self._tensor(self.shape, "int8", [self.scale], [self.zero])
        self.graph.inputs = [self.flowing]

    def _tensor(self, shape, dtype, scales=(), zeros=(), values=None, axis=0):
        tensor = schema.TensorT()
        tensor.shape, tensor.type = list(shape), _TYPES[dtype]
        tensor.name, tensor.buffer = f"tensor {len(self.graph.tensors)}", 0
        if values is not None:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(np.asarray(values, dtype).tobytes(), np.uint8)
            tensor.buffer = len(self.content.buffers)
            self.content.buffers.append(buffer)
        if len(scales):
            tensor.quantization = schema.QuantizationParametersT()
            tensor.quantization.scale = [float(scale) for scale in scales]
            tensor.quantization.zeroPoint = [int(zero) for zero in zeros]
            tensor.quantization.quantizedDimension = axis
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def op(self, name, shape, scale=None, zero=None, constants=(), options=None, **fields):
        """Add any op; its output keeps the scale and zero point of its input if none is given."""
        code, operator = schema.OperatorCodeT(), schema.OperatorT()
        code.builtinCode = code.deprecatedBuiltinCode = getattr(schema.BuiltinOperator, name)
        code.version = 1
        self.content.operatorCodes.append(code)
        operator.opcodeIndex = len(self.content.operatorCodes) - 1
        if options:
            operator.builtinOptionsType = getattr(schema.BuiltinOptions, options)
            operator.builtinOptions = getattr(schema, f"{options}T")()
            for field, value in fields.items():
                assert hasattr(operator.builtinOptions, field)
                setattr(operator.builtinOptions, field, value)
        self.scale = self.scale if scale is None else scale
        self.zero = self.zero if zero is None else zero
        operator.inputs = [self.flowing, *constants]
        self.flowing, self.shape = self._tensor(shape, "int8", [self.scale], [self.zero]), shape
        operator.outputs = [self.flowing]
        self.graph.operators.append(operator)
        return self

    def _spread(self, window, stride, padding):
        """Height and width of a window op's output."""
        inside = (0, 0) if padding == SAME else (window[0] - 1, window[1] - 1)
        return [math.ceil((self.shape[1 + i] - inside[i]) / stride[i]) for i in (0, 1)]

    def _filters(self, weights, bias, scales, axis):
        count = weights.shape[axis]
        scales = np.atleast_1d(np.asarray(scales, np.float32))
        filters = self._tensor(weights.shape, "int8", scales, [0] * len(scales), weights, axis)
        if bias is None and axis == 0 and weights.ndim == 2:
            return [filters]
        bias = np.zeros(count, np.int32) if bias is None else bias
        products = scales * np.float32(self.scale)
        return [filters, self._tensor((count,), "int32", products, [0] * len(scales), bias)]

    def conv(
        self, weights, bias=None, scales=1.0, scale=None, zero=None, stride=(1, 1), padding=VALID,
        activation=NONE, dilation=(1, 1), kind="Conv2D", axis=0, **options,
    ):  # fmt: skip
        """Weights: (out, height, width, in)."""
        window = [
            (side - 1) * far + 1 for side, far in zip(weights.shape[1:3], dilation, strict=True)
        ]
        shape = (1, *self._spread(window, stride, padding), weights.shape[axis])
        name = {"Conv2D": "CONV_2D", "DepthwiseConv2D": "DEPTHWISE_CONV_2D"}[kind]
        return self.op(
            name, shape, scale, zero, self._filters(weights, bias, scales, axis), f"{kind}Options",
            padding=padding, strideH=stride[0], strideW=stride[1], dilationHFactor=dilation[0],
            dilationWFactor=dilation[1], fusedActivationFunction=activation, **options,
        )  # fmt: skip

    def depthwise(self, weights, *arguments):
        """Weights: (1, height, width, channels)."""
        multiplier = weights.shape[3] // self.shape[3]
        return self.conv(
            weights, *arguments, kind="DepthwiseConv2D", axis=3, depthMultiplier=multiplier
        )

    def dense(self, weights, bias=None, scales=1.0, scale=None, zero=None, activation=NONE):
        """Weights: (out, in)."""
        return self.op(
            "FULLY_CONNECTED", (1, len(weights)), scale, zero,
            self._filters(weights, bias, scales, 0), "FullyConnectedOptions",
            fusedActivationFunction=activation,
        )  # fmt: skip

    def pool(self, kind, window, stride=None, padding=VALID, activation=NONE):
        """Kind: MAX or AVERAGE; the windows lie side by side if no stride is given."""
        stride = stride or window
        return self.op(
            f"{kind}_POOL_2D", (1, *self._spread(window, stride, padding), self.shape[3]),
            options="Pool2DOptions", padding=padding, filterHeight=window[0],
            filterWidth=window[1], strideH=stride[0], strideW=stride[1],
            fusedActivationFunction=activation,
        )  # fmt: skip

    def resize(self, height, width, half=True, corners=False):
        return self.op(
            "RESIZE_BILINEAR", (1, height, width, self.shape[3]),
            constants=[self._tensor((2,), "int32", values=[height, width])],
            options="ResizeBilinearOptions", halfPixelCenters=half, alignCorners=corners,
        )  # fmt: skip

    def pad(self, paddings):
        """Paddings: (before, after) of each axis."""
        shape = [side + sum(ends) for side, ends in zip(self.shape, paddings, strict=True)]
        place = self._tensor((len(paddings), 2), "int32", values=paddings)
        return self.op("PAD", tuple(shape), constants=[place], options="PadOptions")

    def tanh(self, scale=1 / 128, zero=0):
        return self.op("TANH", self.shape, scale, zero)

    def quantize(self, scale, zero):
        return self.op("QUANTIZE", self.shape, scale, zero, options="QuantizeOptions")

    def reshape(self, *shape):
        place = self._tensor((len(shape),), "int32", values=shape)
        return self.op(
            "RESHAPE", shape, constants=[place], options="ReshapeOptions", newShape=shape
        )

    def ten(self, seed=0):
        """Ten of the values become the logits, unchanged: the first, the last, and others."""
        size = math.prod(self.shape)
        places = np.random.default_rng(seed).choice(size, 10, replace=size < 10)
        places[:2] = 0, size - 1
        chosen = np.zeros((10, size), np.int8)
        chosen[np.arange(10), places] = 1
        return self.dense(chosen)

    def softmax(self, beta=1.0):
        return self.op("SOFTMAX", self.shape, 1 / 256, -128, options="SoftmaxOptions", beta=beta)

    def save(self, path):
        self.graph.outputs = [self.flowing]
        path.write_bytes(metadata_writer.pack(self.content))
        return path


def reference(model, images):
    """Answer as LiteRT's reference kernels do.

    Returns:
        What goes into the softmax and what comes out: int8, (2, N, 10).
    """
    interpreter = Interpreter(
        model_path=str(model),
        experimental_op_resolver_type=OpResolverType.BUILTIN_REF,
        experimental_preserve_all_tensors=True,
    )
    place = interpreter.get_input_details()[0]["index"]
    interpreter.allocate_tensors()
    operator = interpreter._get_ops_details()[-1]
    assert operator["op_name"] == "SOFTMAX"
    found = np.empty((2, len(images), 10), np.int8)
    for number, image in enumerate(images.astype(np.int16) - 128):
        interpreter.set_tensor(place, image.astype(np.int8).reshape(1, 28, 28, 1))
        interpreter.invoke()
        for end, name in enumerate(("inputs", "outputs")):
            found[end, number] = interpreter.get_tensor(operator[name][0]).ravel()
    return found
