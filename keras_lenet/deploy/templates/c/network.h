/* @title@
   Integers only, of 32 bits at least; nothing but <stdint.h> is needed. */

#ifndef @NAME@_H
#define @NAME@_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Static memory that the functions share: one call at a time. */
#define @NAME@_SCRATCH_BYTES @scratch@

/* The least probability of an accepted class, as (value + 128) / 256: @least@/256. */
#define @NAME@_THRESHOLD (@threshold@)

/* An image is 28 rows of 28 pixels, 0 = background, 255 = ink. */

/* The likeliest class, 0 to 9; -1: its probability is below the threshold, so the image shows none
   of the classes. */
int @name@_classify(const uint8_t image[784]);

/* Of each class: probability = (value + 128) / 256. */
void @name@_probabilities(const uint8_t image[784], int8_t probabilities[10]);

/* What the softmax makes the probabilities of. */
void @name@_logits(const uint8_t image[784], int8_t logits[10]);

#ifdef __cplusplus
}
#endif

#endif
