/* AVERAGE_POOL_2D, @shapes@, rounded to nearest, ties away from zero. */
static void @name@(const @type@ *input, int8_t *output)
{
    for (int y = 0; y < @down@; ++y) {
        for (int x = 0; x < @across@; ++x) {
            const @type@ *corner = input + (y * @step_y@ * @width@ + x * @step_x@) * @depth@;
            for (int c = 0; c < @depth@; ++c) {
                const int32_t count = @tall@ * @wide@;
                int32_t sum = 0;
                for (int i = 0; i < @tall@; ++i) {
                    for (int j = 0; j < @wide@; ++j) {
                        sum += READ(corner[(i * @width@ + j) * @depth@ + c]);
                    }
                }
                *output++ = limit((sum + (sum > 0 ? count : -count) / 2) / count, @low@, @high@);
            }
        }
    }
}
