@arrays@

/* RESIZE_BILINEAR, @shapes@; weights of 1024, first down, then across. */
static void @name@(const @type@ *input, int8_t *output)
{
    for (int y = 0; y < @down@; ++y) {
        const @type@ *from = input + @name@_row[y];
        const int32_t below = @name@_row_weight[y], above = 1024 - below;
        int32_t mixed[@line@];
        for (int i = 0; i < @line@; ++i) {
            mixed[i] = READ(from[i]) * above + READ(from[i + @line@]) * below;
        }
        for (int x = 0; x < @across@; ++x) {
            const int32_t right = @name@_column_weight[x], left = 1024 - right;
            for (int i = @name@_column[x]; i < @name@_column[x] + @depth@; ++i) {
                *output++ = (int8_t)round_shift(mixed[i] * left + mixed[i + @depth@] * right, 20);
            }
        }
    }
}
