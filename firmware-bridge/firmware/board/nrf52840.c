/*
 * nRF52840 DK: UART 0 at the pins of the debugger's serial port, NVMC, watchdog. After nRF52840 Product Specification 1.7. Not verified on
 * hardware.
 */
#include <string.h>

#include "../protocol.h"
#include "board.h"
#include "cortex_m.h"
#include "silicon.h"

#define CLOCK_START CX_REGISTER(0x40000000)
#define CLOCK_STARTED CX_REGISTER(0x40000100)
#define RESET_REASON CX_REGISTER(0x40000400)
#define UART_START_RECEIVE CX_REGISTER(0x40002000)
#define UART_START_SEND CX_REGISTER(0x40002008)
#define UART_RECEIVED CX_REGISTER(0x40002108)
#define UART_SENT CX_REGISTER(0x4000211c)
#define UART_INTERRUPTS CX_REGISTER(0x40002304)
#define UART_ERROR CX_REGISTER(0x40002480)
#define UART_ENABLE CX_REGISTER(0x40002500)
#define UART_PIN_SEND CX_REGISTER(0x4000250c)
#define UART_PIN_RECEIVE CX_REGISTER(0x40002514)
#define UART_DATA_IN CX_REGISTER(0x40002518)
#define UART_DATA_OUT CX_REGISTER(0x4000251c)
#define UART_RATE CX_REGISTER(0x40002524)
#define GPIO_SET CX_REGISTER(0x50000508)
#define GPIO_OUTPUT CX_REGISTER(0x50000518)
#define GPIO_RECEIVE_PIN CX_REGISTER(0x50000700 + 4 * PIN_RECEIVE)
#define WATCHDOG_START CX_REGISTER(0x40010000)
#define WATCHDOG_TICKS CX_REGISTER(0x40010504)
#define WATCHDOG_RELOAD CX_REGISTER(0x40010600)
#define FLASH_READY CX_REGISTER(0x4001e400)
#define FLASH_MODE CX_REGISTER(0x4001e504)
#define FLASH_ERASE CX_REGISTER(0x4001e508)
#define FLASH_CACHE CX_REGISTER(0x4001e540)

enum { PIN_SEND = 6, PIN_RECEIVE = 8, RECEIVE_INTERRUPT = 2, READ = 0, WRITE = 1, ERASE = 2, WATCHDOG_SECONDS = 30 };

static uint32_t reason;

void bd_start(void) {
  reason = RESET_REASON;
  RESET_REASON = reason;
  FLASH_CACHE = 1;
  /* The crystal, without which the rate of the line is off. */
  CLOCK_STARTED = 0;
  CLOCK_START = 1;
  while (CLOCK_STARTED == 0) {
  }
  GPIO_SET = 1u << PIN_SEND;
  GPIO_OUTPUT = 1u << PIN_SEND;
  GPIO_RECEIVE_PIN = 3u << 2; /* an input that is connected, pulled up */
  UART_PIN_SEND = PIN_SEND;
  UART_PIN_RECEIVE = PIN_RECEIVE;
  UART_RATE = 0x01d7e000; /* 115200 */
  UART_ENABLE = 4;
  UART_INTERRUPTS = 1u << 2;
  UART_START_RECEIVE = 1;
  UART_START_SEND = 1;
  cx_enable_interrupt(RECEIVE_INTERRUPT);
  WATCHDOG_TICKS = 32768 * WATCHDOG_SECONDS;
  WATCHDOG_START = 1;
  cx_wake_regularly();
}

void bd_alive(void) { WATCHDOG_RELOAD = 0x6e524635; }

void bd_interrupt(void) {
  while (UART_RECEIVED != 0) {
    UART_RECEIVED = 0;
    cx_received((uint8_t)UART_DATA_IN);
  }
  const uint32_t errors = UART_ERROR;
  if (errors != 0) {
    UART_ERROR = errors;
    cx_byte_lost();
  }
}

void bd_send(uint8_t byte) {
  UART_SENT = 0;
  UART_DATA_OUT = byte;
  while (UART_SENT == 0) {
  }
}

uint32_t bd_last_start(void) { return reason & 2 ? MC_START_WATCHDOG : reason & 4 ? MC_START_REQUESTED : MC_START_POWER; }

static void wait_for_flash(void) {
  while ((FLASH_READY & 1) == 0) {
  }
}

int si_erase(uint32_t address) {
  FLASH_MODE = ERASE;
  wait_for_flash();
  FLASH_ERASE = address;
  wait_for_flash();
  FLASH_MODE = READ;
  wait_for_flash();
  return CX_REGISTER(address) == 0xffffffff;
}

int si_write(uint32_t address, const uint8_t bytes[32]) {
  FLASH_MODE = WRITE;
  wait_for_flash();
  for (uint32_t at = 0; at < 32; at += 4) {
    uint32_t word;
    memcpy(&word, bytes + at, 4);
    CX_REGISTER(address + at) = word;
    wait_for_flash();
  }
  FLASH_MODE = READ;
  wait_for_flash();
  return memcmp((const void *)address, bytes, 32) == 0;
}
