/* From reset to main on any Cortex-M: vectors, memory, floating point; and what a fault says. */
#include "chip.h"

int main(void);
void on_reset(void);
void on_fault(void);
void report_fault(const uint32_t *frame);

extern const uint32_t data_image[]; /* link.ld */
extern uint32_t data_start[], data_end[], bss_start[], bss_end[];

typedef union {
    uint32_t *stack;
    void (*handler)(void);
} vector;

/* The 15 exceptions of the architecture; no interrupt is ever enabled. */
__attribute__((section(".vectors"), used)) static const vector vectors[16] = {
    {.stack = stack_top},   {.handler = on_reset},  {.handler = on_fault}, {.handler = on_fault},
    {.handler = on_fault},  {.handler = on_fault},  {.handler = on_fault}, {.handler = on_fault},
    {.handler = on_fault},  {.handler = on_fault},  {.handler = on_fault}, {.handler = on_fault},
    {.handler = on_fault},  {.handler = on_fault},  {.handler = on_fault}, {.handler = on_fault},
};

void on_reset(void)
{
#ifdef __ARM_FP
    /* CPACR: full access to the coprocessors 10 and 11, which are the floating-point unit. */
    *(volatile uint32_t *)0xE000ED88u |= 0xFu << 20;
    __asm__ volatile("dsb\n isb" ::: "memory");
#endif
    const uint32_t *from = data_image;
    for (uint32_t *to = data_start; to < data_end; to++) {
        *to = *from++;
    }
    for (uint32_t *to = bss_start; to < bss_end; to++) {
        *to = 0;
    }
    host_exit((uint32_t)main());
}

/* The stack may be what has run over, so it is begun anew. */
__attribute__((naked)) void on_fault(void)
{
    __asm__ volatile(
        ".syntax unified\n"
        "mrs r0, msp\n"
        "ldr r1, =stack_top\n"
        "mov sp, r1\n"
        "ldr r1, =report_fault\n"
        "bx r1\n");
}

/* Writes the address of the instruction at fault; 0 if the stack has run over. */
__attribute__((used)) void report_fault(const uint32_t *frame)
{
    uint32_t address = 0;
    if (frame >= stack_bottom && frame < stack_top) {
        address = frame[6];
    }
    host_write(host_open("fault", 5, 5), &address, sizeof address);
    host_exit(EXIT_FAULT);
}
