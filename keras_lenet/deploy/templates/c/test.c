/* Without arguments: prints PASS, or the first output that differs from TensorFlow Lite's.
   With two: reads images of 784 bytes from the first file, and writes to the second, for each,
   ten logits and ten probabilities.

   @attribution@ */

#include "@name@.h"

#include <stdio.h>

#define COUNT @vectors@

static const char *const names[COUNT] = {
    @names@
};

static const uint8_t images[COUNT][784] = {
    @images@
};

/* What TensorFlow Lite's reference kernels answer. */
static const int8_t answers[COUNT][10] = {
    @answers@
};

static int self_test(void)
{
    for (int i = 0; i < COUNT; ++i) {
        int8_t found[10];
        int best = 0;
        @name@_probabilities(images[i], found);
        for (int k = 0; k < 10; ++k) {
            if (found[k] != answers[i][k]) {
                printf("FAIL: %s: output %d is %d, expected %d\n", names[i], k, found[k],
                       answers[i][k]);
                return 1;
            }
            best = answers[i][k] > answers[i][best] ? k : best;
        }
        const int greatest = answers[i][best];
        const int accepted = greatest < @NAME@_THRESHOLD ? -1 : best;
        if (@name@_classify(images[i]) != accepted) {
            printf("FAIL: %s: expected the class %d\n", names[i], accepted);
            return 1;
        }
    }
    printf("PASS: %d images, every output as TensorFlow Lite has it\n", COUNT);
    return 0;
}

static int answer(const char *from, const char *to)
{
    static uint8_t image[784];
    int8_t found[20];
    FILE *in = fopen(from, "rb"), *out = fopen(to, "wb");
    if (in == NULL || out == NULL) {
        printf("cannot open %s or %s\n", from, to);
        return 1;
    }
    while (fread(image, sizeof image, 1, in) == 1) {
        @name@_logits(image, found);
        @name@_probabilities(image, found + 10);
        if (fwrite(found, sizeof found, 1, out) != 1) {
            printf("cannot write %s\n", to);
            return 1;
        }
    }
    fclose(in);
    return fclose(out) != 0;
}

int main(int count, char **arguments)
{
    return count == 3 ? answer(arguments[1], arguments[2]) : self_test();
}
