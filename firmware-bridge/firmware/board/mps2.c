/* Arm's MPS2 boards with application notes AN386 (Cortex-M4) and AN500 (Cortex-M7), as QEMU emulates them: UART 0 and timer 0 of the CMSDK. */
#include "../protocol.h"
#include "board.h"
#include "cortex_m.h"

#define UART_DATA CX_REGISTER(0x40004000)
#define UART_STATE CX_REGISTER(0x40004004)
#define UART_CONTROL CX_REGISTER(0x40004008)
#define UART_INTERRUPT CX_REGISTER(0x4000400c)
#define UART_DIVIDER CX_REGISTER(0x40004010)
#define TIMER_CONTROL CX_REGISTER(0x40000000)
#define TIMER_VALUE CX_REGISTER(0x40000004)
#define TIMER_RELOAD CX_REGISTER(0x40000008)
#define TIMER_INTERRUPT CX_REGISTER(0x4000000c)

enum { STATE_SEND_FULL = 1, STATE_RECEIVED = 2, STATE_OVERRUN = 8, RECEIVE_INTERRUPT = 0 };

const char bd_timer_name[] = "CMSDK timer";

void bd_start(void) {
  UART_DIVIDER = BD_TIMER_HZ / 115200;
  UART_CONTROL = 1 | 2 | 8; /* send, receive, interrupt on receive */
  cx_enable_interrupt(RECEIVE_INTERRUPT);
}

void bd_interrupt(void) {
  UART_INTERRUPT = 2;
  while (UART_STATE & STATE_RECEIVED) cx_received((uint8_t)UART_DATA);
  if (UART_STATE & STATE_OVERRUN) {
    UART_STATE = STATE_OVERRUN;
    cx_byte_lost();
  }
}

void bd_send(uint8_t byte) {
  while (UART_STATE & STATE_SEND_FULL) {
  }
  UART_DATA = byte;
}

/* Counts down from its end, and raises its interrupt, which nobody hears, where it goes around. */
void bd_timer_start(void) {
  TIMER_CONTROL = 0;
  TIMER_RELOAD = 0xffffffff;
  TIMER_VALUE = 0xffffffff;
  TIMER_INTERRUPT = 1;
  TIMER_CONTROL = 1 | 8;
}

int bd_timer_stop(uint32_t *ticks) {
  *ticks = 0xffffffff - TIMER_VALUE;
  __asm volatile("" : "+r"(*ticks)::"memory");
  const int is_whole = (TIMER_INTERRUPT & 1) == 0;
  /* A timer that runs on keeps the emulator busy, which jumps from one end of it to the next while the firmware sleeps. */
  TIMER_CONTROL = 0;
  return is_whole;
}

uint32_t bd_last_start(void) { return MC_START_POWER; }

/* The watchdog is not used here. */
void bd_alive(void) {}
