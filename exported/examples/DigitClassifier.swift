// Classify 28 rows of 28 pixels on iOS.
// Podfile: pod 'TensorFlowLiteSwift'
// Put lenet5_uint8.tflite into the app's bundle. The threshold is in manifest.json.
// Not compiled by the tests: TensorFlow Lite's Swift interface needs Xcode.

import Foundation
import TensorFlowLite

final class DigitClassifier {
    private let interpreter: Interpreter
    private let threshold: Float

    init(threshold: Float) throws {
        let path = Bundle.main.path(forResource: "lenet5_uint8", ofType: "tflite")!
        self.threshold = threshold
        interpreter = try Interpreter(modelPath: path)
        try interpreter.allocateTensors()
    }

    /// Return the digit, or nil for "no digit". Pixels: 0 = background, 255 = ink.
    func classify(_ pixels: [UInt8]) throws -> Int? {
        try interpreter.copy(Data(pixels), toInputAt: 0)
        try interpreter.invoke()
        let scores = [UInt8](try interpreter.output(at: 0).data)
        let digit = scores.indices.max { scores[$0] < scores[$1] }!
        return Float(scores[digit]) / 256 >= threshold ? digit : nil
    }
}
