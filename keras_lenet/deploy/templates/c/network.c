/* @title@ */

#include "@name@.h"

/* One image's activations, and the pixels under a filter, for windows side by side. */
static struct {
    int16_t patch[@patch@];
    int8_t values[@values@];
} scratch;

/* Compile-time checks: an array cannot have a negative size. */
typedef char size_is_as_promised[sizeof scratch == @NAME@_SCRATCH_BYTES ? 1 : -1];
typedef char int_has_32_bits[sizeof(int) >= 4 ? 1 : -1];
typedef char shifts_keep_the_sign[-1 >> 1 == -1 ? 1 : -1];

@helpers@

@functions@

static const int8_t *run(const uint8_t *image)
{
    @calls@
    return @logits@;
}

void @name@_logits(const uint8_t image[784], int8_t logits[10])
{
    const int8_t *found = run(image);
    for (int i = 0; i < 10; ++i) {
        logits[i] = found[i];
    }
}

void @name@_probabilities(const uint8_t image[784], int8_t probabilities[10])
{
    @softmax@(run(image), probabilities);
}

int @name@_classify(const uint8_t image[784])
{
    int8_t probabilities[10];
    int best = 0, greatest;
    @name@_probabilities(image, probabilities);
    for (int i = 1; i < 10; ++i) {
        if (probabilities[i] > probabilities[best]) {
            best = i;
        }
    }
    greatest = probabilities[best];
    return greatest < @NAME@_THRESHOLD ? -1 : best;
}
