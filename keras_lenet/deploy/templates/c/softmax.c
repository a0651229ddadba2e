@arrays@

/* SOFTMAX: exponentials in Q0.31, their sum in Q12.19, its reciprocal by Newton and Raphson. */
static void @name@(const @type@ *input, int8_t *output)
{
    int32_t greatest = -128, sum = 0;
    for (int i = 0; i < @size@; ++i) {
        greatest = larger(greatest, input[i]);
    }
    for (int i = 0; i < @size@; ++i) {
        const int32_t below = greatest - input[i];
        if (below < @count@) {
            sum += round_shift(@name@_exponentials[below], 12);
        }
    }
    int zeros = 0;
    while ((uint32_t)sum << zeros < 0x80000000u) {
        ++zeros;
    }
    /* 1 / (2 * half) where half is in [1/2, 1), Q0.31; the reciprocal of half is in Q2.29. */
    const int32_t half = (int32_t)((uint32_t)sum << zeros >> 1);
    int32_t reciprocal = 1515870810 + high_multiply(half, -1010580540); /* 48/17 - half * 32/17 */
    for (int i = 0; i < 3; ++i) {
        const int32_t error = (1 << 29) - high_multiply(half, reciprocal);
        reciprocal += 4 * high_multiply(reciprocal, error);
    }
    reciprocal = reciprocal < 1 << 30 ? 2 * reciprocal : INT32_MAX;
    for (int i = 0; i < @size@; ++i) {
        const int32_t below = greatest - input[i];
        int32_t value = 0;
        if (below < @count@) {
            value = round_shift(high_multiply(reciprocal, @name@_exponentials[below]),
                                35 - zeros);
        }
        output[i] = (int8_t)smaller(value - 128, 127);
    }
}
