@arrays@

/* QUANTIZE or TANH, @shapes@. */
static void @name@(const @type@ *input, int8_t *output)
{
    for (int i = 0; i < @size@; ++i) {
        output[i] = @name@_table[READ(input[i]) + 128];
    }
}
