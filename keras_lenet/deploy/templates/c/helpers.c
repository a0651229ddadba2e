static inline int32_t smaller(int32_t a, int32_t b)
{
    return a < b ? a : b;
}

static inline int32_t larger(int32_t a, int32_t b)
{
    return a > b ? a : b;
}

/* a * b / 2^31, rounded to nearest. */
static inline int32_t high_multiply(int32_t a, int32_t b)
{
    return (int32_t)(((int64_t)a * b + (1 << 30)) >> 31);
}

/* value / 2^bits, rounded to nearest, ties away from zero. */
static inline int32_t round_shift(int32_t value, int bits)
{
    const int32_t mask = (int32_t)((1u << bits) - 1u);
    return (value >> bits) + ((value & mask) > (mask >> 1) + (value < 0));
}

/* sum * multiplier / 2^(31 + shift), rounded twice, as TensorFlow Lite's convolutions do. */
static inline int32_t scale_twice(int32_t sum, int32_t multiplier, int shift)
{
    return round_shift(high_multiply(sum, multiplier), shift);
}

/* The same, rounded once, ties away from zero, as its fully connected layers do. */
static inline int32_t scale_once(int32_t sum, int32_t multiplier, int shift)
{
    const int64_t half = (int64_t)1 << (30 + shift);
    return (int32_t)(((int64_t)sum * multiplier + half - (sum < 0)) >> (31 + shift));
}

static inline int8_t limit(int32_t value, int32_t least, int32_t greatest)
{
    return (int8_t)smaller(larger(value, least), greatest);
}
