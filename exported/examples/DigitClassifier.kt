// Classify 28 rows of 28 pixels on Android.
// build.gradle: implementation("com.google.ai.edge.litert:litert:2.+")
// Put lenet5_int8.tflite among the assets. The threshold is in manifest.json.
// Not compiled by the tests: LiteRT's Kotlin interface needs the Android SDK.

import android.content.Context
import com.google.ai.edge.litert.Accelerator
import com.google.ai.edge.litert.CompiledModel

class DigitClassifier(context: Context, private val threshold: Float) {
    private val model = CompiledModel.create(
        context.assets, "lenet5_int8.tflite", CompiledModel.Options(Accelerator.CPU))
    private val inputs = model.createInputBuffers()
    private val outputs = model.createOutputBuffers()

    /** Return the digit, or null for "no digit". Pixels: 0 = background, 255 = ink. */
    fun classify(pixels: IntArray): Int? {
        inputs[0].writeInt8(ByteArray(784) { (pixels[it] - 128).toByte() })
        model.run(inputs, outputs)
        val scores = outputs[0].readInt8()
        val digit = (0..9).maxByOrNull { scores[it] }!!
        return digit.takeIf { (scores[digit] + 128) / 256f >= threshold }
    }
}
