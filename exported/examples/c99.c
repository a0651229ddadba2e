/* Classify 28 rows of 28 pixels from standard input, without an interpreter.

   cc -std=c99 -O2 -I../c c99.c ../c/lenet5.c -o c99
   ./c99 < pixels.bin */

#include <stdio.h>

#include "lenet5.h"

int main(void) {
  static uint8_t image[784]; /* 0 = background, 255 = ink */
  if (fread(image, 1, sizeof image, stdin) != sizeof image) {
    fputs("expected 784 bytes\n", stderr);
    return 1;
  }
  int digit = lenet5_classify(image);
  if (digit < 0) {
    puts("no digit");
  } else {
    printf("%d\n", digit);
  }
  return 0;
}
