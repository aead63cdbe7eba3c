/* The STM32F405 of a Netduino Plus 2, as QEMU emulates it: USART1 and TIM2. QEMU has no flash controller, so storage is RAM. */
#include "../protocol.h"
#include "board.h"
#include "cortex_m.h"

#define RCC_APB1ENR CX_REGISTER(0x40023840)
#define RCC_APB2ENR CX_REGISTER(0x40023844)
#define USART_STATUS CX_REGISTER(0x40011000)
#define USART_DATA CX_REGISTER(0x40011004)
#define USART_RATE CX_REGISTER(0x40011008)
#define USART_CONTROL CX_REGISTER(0x4001100c)
#define TIMER_CONTROL CX_REGISTER(0x40000000)
#define TIMER_INTERRUPT CX_REGISTER(0x4000000c)
#define TIMER_STATUS CX_REGISTER(0x40000010)
#define TIMER_EVENT CX_REGISTER(0x40000014)
#define TIMER_VALUE CX_REGISTER(0x40000024)
#define TIMER_PRESCALER CX_REGISTER(0x40000028)
#define TIMER_RELOAD CX_REGISTER(0x4000002c)

enum { STATUS_OVERRUN = 1 << 3, STATUS_RECEIVED = 1 << 5, STATUS_SEND_EMPTY = 1 << 7, RECEIVE_INTERRUPT = 37 };

const char bd_timer_name[] = "TIM2";

void bd_start(void) {
  RCC_APB1ENR |= 1;       /* TIM2 */
  RCC_APB2ENR |= 1u << 4; /* USART1 */
  USART_RATE = 16000000 / 115200;
  USART_CONTROL = 1u << 13 | 1u << 5 | 1u << 3 | 1u << 2; /* on; interrupt on receive; send; receive */
  cx_enable_interrupt(RECEIVE_INTERRUPT);
}

void bd_interrupt(void) {
  const uint32_t status = USART_STATUS;
  if (status & STATUS_OVERRUN) cx_byte_lost();
  if (status & (STATUS_RECEIVED | STATUS_OVERRUN)) cx_received((uint8_t)USART_DATA);
}

void bd_send(uint8_t byte) {
  while ((USART_STATUS & STATUS_SEND_EMPTY) == 0) {
  }
  USART_DATA = byte;
}

void bd_timer_start(void) {
  TIMER_CONTROL = 0;
  TIMER_PRESCALER = 0;
  TIMER_RELOAD = 0xffffffff;
  TIMER_EVENT = 1;
  TIMER_STATUS = 0;
  TIMER_INTERRUPT = 1;
  TIMER_VALUE = 0;
  TIMER_CONTROL = 1;
}

int bd_timer_stop(uint32_t *ticks) {
  *ticks = TIMER_VALUE;
  __asm volatile("" : "+r"(*ticks)::"memory");
  /* It counts to the end and begins at 0 again, which sets the update flag where its interrupt, which nobody hears, is on. */
  const int is_whole = (TIMER_STATUS & 1) == 0;
  /* A timer that runs on keeps the emulator busy, which jumps from one end of it to the next while the firmware sleeps. */
  TIMER_CONTROL = 0;
  return is_whole;
}

uint32_t bd_last_start(void) { return MC_START_POWER; }

/* The watchdog is not used here. */
void bd_alive(void) {}
