@arrays@

/* Filters of @tall@x@wide@, @shapes@@pooled@. */
static void @name@(const @type@ *input, int8_t *output)
{
    int16_t *patch = scratch.patch;
    for (int y = 0; y < @down@; ++y) {
        for (int x = 0; x < @across@; ++x) {
            const @type@ *corner = input
                + (y * @row_step@ + x * @column_step@) * @depth@;
            for (int i = 0; i < @rows@; ++i) {
                for (int j = 0; j < @patch_line@; ++j) {
                    @gather@
                }
            }
            for (int o = 0; o < @channels@; o += @block@) {
                const int8_t *weights = @name@_weights + o * @filter@;
                @declare@
                for (int k = 0; k < @filter@; ++k) {
                    @load@
                    @add@
                }
                @store@
            }
            output += @channels@;
        }
    }
}
