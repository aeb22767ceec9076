/* What startup.c and main.c share: calls to the emulator (semihosting) without stdio. */
#ifndef CHIP_H
#define CHIP_H

#include <stdint.h>

enum { HOST_OPEN = 0x01, HOST_WRITE = 0x05, HOST_READ = 0x06, HOST_EXIT = 0x20 };
enum { STOPPED_BY_PROGRAM = 0x20026 };
/* Exit codes that chip.py knows. */
enum { EXIT_DONE = 0, EXIT_FAULT = 3, EXIT_FILES = 4, EXIT_STACK = 5 };

/* The first word and the last one past the end of the stack (link.ld). */
extern uint32_t stack_bottom[], stack_top[];

static inline uint32_t host(uint32_t operation, const uint32_t *arguments)
{
    register uint32_t r0 __asm__("r0") = operation;
    register const uint32_t *r1 __asm__("r1") = arguments;
    __asm__ volatile("bkpt 0xAB" : "+r"(r0) : "r"(r1) : "memory");
    return r0;
}

/* mode: 1 reads bytes, 5 writes them. */
static inline uint32_t host_open(const char *name, uint32_t length, uint32_t mode)
{
    const uint32_t arguments[3] = {(uint32_t)name, mode, length};
    return host(HOST_OPEN, arguments);
}

/* Both give the number of bytes that were not moved. */
static inline uint32_t host_read(uint32_t file, void *to, uint32_t bytes)
{
    const uint32_t arguments[3] = {file, (uint32_t)to, bytes};
    return host(HOST_READ, arguments);
}

static inline uint32_t host_write(uint32_t file, const void *from, uint32_t bytes)
{
    const uint32_t arguments[3] = {file, (uint32_t)from, bytes};
    return host(HOST_WRITE, arguments);
}

static inline void host_exit(uint32_t code)
{
    const uint32_t arguments[2] = {STOPPED_BY_PROGRAM, code};
    for (;;) {
        host(HOST_EXIT, arguments);
    }
}

#endif
