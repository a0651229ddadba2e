/* MAX_POOL_2D, @shapes@. */
static void @name@(const @type@ *input, int8_t *output)
{
    for (int y = 0; y < @down@; ++y) {
        for (int x = 0; x < @across@; ++x) {
            const @type@ *corner = input + (y * @step_y@ * @width@ + x * @step_x@) * @depth@;
            for (int c = 0; c < @depth@; ++c) {
                int32_t found = -128;
                for (int i = 0; i < @tall@; ++i) {
                    for (int j = 0; j < @wide@; ++j) {
                        found = larger(found, READ(corner[(i * @width@ + j) * @depth@ + c]));
                    }
                }
                *output++ = limit(found, @low@, @high@);
            }
        }
    }
}
