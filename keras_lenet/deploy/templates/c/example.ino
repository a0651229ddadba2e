// Send 784 bytes, 28 rows of 28 pixels, 0 = background, 255 = ink: the class comes back, or -1 if
// the image shows none of the classes.
// Copy @name@.c and @name@.h into this folder first.

#include "@name@.h"

static uint8_t image[784];

void setup() {
  Serial.begin(115200);
}

void loop() {
  if (Serial.readBytes((char *)image, sizeof image) == sizeof image) {
    Serial.println(@name@_classify(image));
  }
}
