/* @op@, @shapes@. */
static void @name@(const @type@ *input, int8_t *output)
{
    for (int y = 0; y < @down@; ++y) {
        const int top = larger(y * @step_y@ - @top@, 0);
        const int bottom = smaller(y * @step_y@ - @top@ + @tall@, @height@);
        for (int x = 0; x < @across@; ++x) {
            const int left = larger(x * @step_x@ - @left@, 0);
            const int right = smaller(x * @step_x@ - @left@ + @wide@, @width@);
            for (int c = 0; c < @depth@; ++c) {
                int32_t found = @start@;
                for (int i = top; i < bottom; ++i) {
                    for (int j = left; j < right; ++j) {
                        @change@
                    }
                }
                @finish@
                *output++ = limit(found, @low@, @high@);
            }
        }
    }
}
