#include "@name@.h"

/* As many classifications as the argument has letters. */
int main(int count, char **arguments)
{
    static uint8_t image[784];
    volatile int found;
    for (int i = 0; i < 784; ++i) {
        image[i] = (uint8_t)(i * i);
    }
    for (int i = 0; count == 2 && arguments[1][i]; ++i) {
        found = @name@_classify(image);
    }
    (void)found;
    return 0;
}
