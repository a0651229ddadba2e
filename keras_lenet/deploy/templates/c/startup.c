extern void _start(void);
extern unsigned long stack_top;
const struct { unsigned long *stack; void (*reset)(void); } vectors
    __attribute__((section(".vectors"), used)) = {&stack_top, _start};
