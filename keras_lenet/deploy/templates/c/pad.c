/* PAD, @shapes@. */
static void @name@(const @type@ *input, int8_t *output)
{
    for (int i = 0; i < @size@; ++i) {
        output[i] = @value@;
    }
    for (int y = 0; y < @height@; ++y) {
        for (int i = 0; i < @line@; ++i) {
            output[@start@ + y * @target_line@ + i] =
                (int8_t)READ(input[y * @line@ + i]);
        }
    }
}
