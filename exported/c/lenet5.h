/* lenet5_int8_plain.tflite, SHA-256 dfcfdf51c8ce7e0c960077c5da4c979096d051cd58e3eade295fdd61a0f4a616
   Integers only, of 32 bits at least; nothing but <stdint.h> is needed. */

#ifndef LENET5_H
#define LENET5_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Static memory that the functions share: one call at a time. */
#define LENET5_SCRATCH_BYTES 3000

/* The least probability of an accepted class, as (value + 128) / 256: 162/256. */
#define LENET5_THRESHOLD (34)

/* An image is 28 rows of 28 pixels, 0 = background, 255 = ink. */

/* The likeliest class, 0 to 9; -1: its probability is below the threshold, so the image shows none
   of the classes. */
int lenet5_classify(const uint8_t image[784]);

/* Of each class: probability = (value + 128) / 256. */
void lenet5_probabilities(const uint8_t image[784], int8_t probabilities[10]);

/* What the softmax makes the probabilities of. */
void lenet5_logits(const uint8_t image[784], int8_t logits[10]);

#ifdef __cplusplus
}
#endif

#endif
