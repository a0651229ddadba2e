@arrays@

/* Filters of @tall@x@wide@ of one channel each, @shapes@. */
static void @name@(const @type@ *input, int8_t *output)
{
    for (int y = 0; y < @down@; ++y) {
        for (int x = 0; x < @across@; ++x) {
            const @type@ *corner = input + (y * @row_step@ + x * @column_step@) * @channels@;
            for (int c = 0; c < @channels@; ++c) {
                const int8_t *weights = @name@_weights + c * @filter@;
                int32_t sum = @name@_bias[c];
                for (int i = 0; i < @tall@; ++i) {
                    for (int j = 0; j < @wide@; ++j) {
                        sum += weights[i * @wide@ + j] * READ(corner[(i * @width@ + j) * @channels@ + c]);
                    }
                }
                sum = @scale@(sum, @name@_multiplier[c], @name@_shift[c]);
                *output++ = limit(sum @offset@, @low@, @high@);
            }
        }
    }
}
