/*
 * Starts a test program on an emulated Cortex-M: vectors, the floating-point unit, then the C library's own start, which talks to the
 * emulator by semihosting (arguments, output, exit). A fault ends the program as a failure.
 */
#include <stdint.h>
#include <stdlib.h>
#include <unistd.h>

extern char stack_top[];
void _start(void);

static void reset(void) {
  volatile uint32_t *const coprocessors = (uint32_t *)0xE000ED88; /* CPACR */
  *coprocessors |= 0xFu << 20;
  __asm__ volatile("dsb\n isb");
  _start();
}

static void fault(void) {
  static const char text[] = "fault: the processor stopped the program\n";
  (void)!write(2, text, sizeof text - 1);
  _exit(1);
}

__attribute__((section(".vectors"), used)) static void *const vectors[16] = {stack_top, reset, fault, fault, fault, fault, fault};
