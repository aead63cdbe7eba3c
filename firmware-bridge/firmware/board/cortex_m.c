/*
 * The processor's part of every Cortex-M board: start, interrupts, the ring of received bytes, counters, reset.
 *
 * Time is counted by DWT's cycle counter. An emulator has none: there the board's timer counts, and a loop of known length tells
 * whether it counts instructions, as it does under QEMU's -icount, or the time of the machine.
 */
#include "cortex_m.h"

#include <stddef.h>

#include "../../../native/kernels/kernels.h"
#include "../platform.h"
#include "../protocol.h"
#include "board.h"

#define CPACR CX_REGISTER(0xe000ed88)
#define AIRCR CX_REGISTER(0xe000ed0c)
#define MPU_CONTROL CX_REGISTER(0xe000ed94)
#define MPU_REGION_BASE CX_REGISTER(0xe000ed9c)
#define MPU_REGION CX_REGISTER(0xe000eda0)
#define DEMCR CX_REGISTER(0xe000edfc)
#define VTOR CX_REGISTER(0xe000ed08)
#define SYSTICK_CONTROL CX_REGISTER(0xe000e010)
#define SYSTICK_RELOAD CX_REGISTER(0xe000e014)
#define DWT_LOCK CX_REGISTER(0xe0001fb0)
#define DWT_CTRL CX_REGISTER(0xe0001000)
#define DWT_CYCCNT CX_REGISTER(0xe0001004)
#define NVIC_ISER ((volatile uint32_t *)0xe000e100)

enum { STACK_GUARD_BYTES = 32, RING_BYTES = 2048, INTERRUPTS = 96, LOOP_TURNS = 100000 };
#define STACK_MARK 0x5ac35ac3u

extern uint32_t cx_data_source[], cx_data_begin[], cx_data_end[], cx_bss_begin[], cx_bss_end[];
extern uint8_t cx_workspace_begin[], cx_workspace_end[];
extern uint32_t cx_stack_begin[], cx_stack_end[];

int main(void);

/* Survives a reset; says why there was one. */
static struct {
  uint32_t mark, start;
} kept __attribute__((section(".noinit")));
#define KEPT_MARK 0x51a27e55u

static struct {
  volatile uint8_t bytes[RING_BYTES];
  volatile uint32_t written, read, lost;
} ring;

static uint32_t counter = MC_COUNTER_CYCLES, last_start, started;

static uint32_t masked(void) {
  uint32_t before;
  __asm volatile("mrs %0, primask\n cpsid i" : "=r"(before)::"memory");
  return before;
}
static void unmask(uint32_t before) { __asm volatile("msr primask, %0" ::"r"(before) : "memory"); }

static void start_again(uint32_t why) {
  kept.mark = KEPT_MARK;
  kept.start = why;
  __asm volatile("dsb" ::: "memory");
  AIRCR = 0x05fa0004;
  for (;;) __asm volatile("dsb");
}

void pf_reset(void) { start_again(MC_START_REQUESTED); }

__attribute__((used)) void cx_fault(void) { start_again(MC_START_FAULT); }

/* Whatever goes wrong in the processor ends an activation that is on trial: the chip starts anew. The stack may be what went wrong. */
__attribute__((naked)) static void fault(void) {
  __asm volatile(
      "ldr r0, =cx_stack_end\n"
      "mov sp, r0\n"
      "b cx_fault\n");
}

__attribute__((used)) void cx_begin(void) {
  CPACR |= 0xfu << 20; /* the floating-point unit, before anything may use it */
  __asm volatile("dsb\n isb" ::: "memory");
  const uint32_t *from = cx_data_source;
  for (uint32_t *to = cx_data_begin; to < cx_data_end;) *to++ = *from++;
  for (uint32_t *to = cx_bss_begin; to < cx_bss_end;) *to++ = 0;
  main();
  start_again(MC_START_FAULT);
}

/* Marks the stack below what is in use, which needs a function without a frame of its own. */
__attribute__((naked, noreturn)) static void reset(void) {
  __asm volatile(
      "ldr r0, =cx_stack_begin\n"
      "ldr r1, =0x5ac35ac3\n"
      "mov r2, sp\n"
      "1: cmp r0, r2\n"
      "bhs 2f\n"
      "str r1, [r0], #4\n"
      "b 1b\n"
      "2: b cx_begin\n");
}

/* That it comes is all there is to it. */
static void tick(void) {}

void cx_wake_regularly(void) {
  SYSTICK_RELOAD = 0xffffff;
  SYSTICK_CONTROL = 7;
}

typedef void (*handler)(void);
__attribute__((section(".vectors"), used, aligned(512))) static const handler vectors[16 + INTERRUPTS] = {
    (handler)(void *)cx_stack_end,
    reset,
    [2 ... 14] = fault,
    [15] = tick,
    [16 ... 16 + INTERRUPTS - 1] = bd_interrupt,
};

void cx_enable_interrupt(uint32_t number) { NVIC_ISER[number / 32] = 1u << number % 32; }

void cx_received(uint8_t byte) {
  if (ring.written - ring.read == RING_BYTES) {
    ring.lost++;
    return;
  }
  ring.bytes[ring.written % RING_BYTES] = byte;
  ring.written++;
}

void cx_byte_lost(void) { ring.lost++; }

int32_t pf_receive(void) {
  if (ring.read == ring.written) return -1;
  const uint8_t byte = ring.bytes[ring.read % RING_BYTES];
  ring.read++;
  return byte;
}

void pf_wait(void) {
  bd_alive();
  /* Masked, so that a byte between the look and the sleep wakes the sleeper all the same. */
  const uint32_t before = masked();
  if (ring.read == ring.written) __asm volatile("dsb\n wfi" ::: "memory");
  unmask(before);
}

void pf_send(const uint8_t *bytes, uint32_t count) {
  for (uint32_t i = 0; i < count; i++) bd_send(bytes[i]);
}

uint32_t pf_bytes_lost(void) { return ring.lost; }

/* Two instructions a turn. */
static void loop(uint32_t turns) { __asm volatile("1: subs %0, #1\n bne 1b" : "+r"(turns)::"cc", "memory"); }

/* Instructions that so many ticks of the timer are, where an instruction takes 2^BD_EMULATED_SHIFT ns of the emulator's time. */
static uint64_t instructions_of(uint32_t ticks) {
  const uint64_t divisor = (uint64_t)BD_TIMER_HZ << BD_EMULATED_SHIFT;
  return ((uint64_t)ticks * 1000000000u + divisor / 2) / divisor;
}

static void choose_counter(void) {
  DEMCR |= 1u << 24;
  DWT_LOCK = 0xc5acce55; /* some Cortex-M7 keep it locked */
  DWT_CYCCNT = 0;
  DWT_CTRL |= 1;
  const uint32_t before = DWT_CYCCNT;
  loop(16);
  if (DWT_CYCCNT != before) return;
  counter = MC_COUNTER_NANOSECONDS;
  uint32_t ticks;
  const uint32_t mask = masked();
  bd_timer_start();
  loop(LOOP_TURNS);
  const int is_whole = bd_timer_stop(&ticks);
  unmask(mask);
  const uint64_t counted = instructions_of(ticks);
  if (is_whole && counted >= 2 * LOOP_TURNS && counted < 2 * LOOP_TURNS + 100) counter = MC_COUNTER_INSTRUCTIONS;
}

/* The lowest 32 bytes of the stack are not to be touched: a stack that grows too far is a fault, not a change in a model's memory. */
static void guard_stack(void) {
  MPU_REGION_BASE = (uint32_t)(uintptr_t)cx_stack_begin | 1u << 4; /* region 0 */
  MPU_REGION = 1u << 28 | 4u << 1 | 1u;                            /* no execution, no access, 2^5 bytes, on */
  MPU_CONTROL = 1 | 1u << 2;                                       /* everything else as without it */
  __asm volatile("dsb\n isb" ::: "memory");
}

void pf_start(void) {
  guard_stack();
  VTOR = (uint32_t)(uintptr_t)vectors;
  last_start = kept.mark == KEPT_MARK ? kept.start : bd_last_start();
  kept.mark = 0;
  bd_start();
  choose_counter();
}

uint32_t pf_last_start(void) { return last_start; }
uint32_t pf_counter(void) { return counter; }
const char *pf_counter_source(void) { return counter == MC_COUNTER_CYCLES ? "DWT" : bd_timer_name; }

static uint32_t mask_before;

void pf_counter_start(void) {
  bd_alive();
  mask_before = masked();
  if (counter != MC_COUNTER_CYCLES) bd_timer_start();
  else started = DWT_CYCCNT;
}

int pf_counter_stop(uint64_t *counted) {
  uint32_t ticks = 0;
  int is_whole = 1;
  if (counter != MC_COUNTER_CYCLES) is_whole = bd_timer_stop(&ticks);
  else ticks = DWT_CYCCNT - started;
  unmask(mask_before);
  if (counter == MC_COUNTER_CYCLES) *counted = ticks;
  else if (counter == MC_COUNTER_INSTRUCTIONS) *counted = instructions_of(ticks);
  else *counted = (uint64_t)ticks * 1000000000u / BD_TIMER_HZ;
  return is_whole;
}

uint8_t *pf_workspace(uint32_t *bytes) {
  *bytes = (uint32_t)(cx_workspace_end - cx_workspace_begin);
  return cx_workspace_begin;
}

uint32_t pf_stack_bytes(void) { return (uint32_t)((uint8_t *)cx_stack_end - (uint8_t *)cx_stack_begin); }

uint32_t pf_stack_used(void) {
  const uint32_t *word = cx_stack_begin + STACK_GUARD_BYTES / 4;
  while (word < cx_stack_end && *word == STACK_MARK) word++;
  return (uint32_t)((uint8_t *)cx_stack_end - (const uint8_t *)word);
}
