/*
 * Nucleo-144 with an STM32H743: USART3 at the debugger's serial port, the second bank of flash, the independent watchdog; on the internal
 * oscillator of 64 MHz, which it starts with. After RM0433 revision 8. Not verified on hardware.
 */
#include <string.h>

#include "../protocol.h"
#include "board.h"
#include "cortex_m.h"
#include "silicon.h"

#define RCC_RESET_STATUS CX_REGISTER(0x580244d0)
#define RCC_AHB4ENR CX_REGISTER(0x580244e0)
#define RCC_APB1LENR CX_REGISTER(0x580244e8)
#define GPIOD_MODE CX_REGISTER(0x58020c00)
#define GPIOD_FUNCTION_HIGH CX_REGISTER(0x58020c24)
#define USART_CONTROL CX_REGISTER(0x40004800)
#define USART_RATE CX_REGISTER(0x4000480c)
#define USART_STATUS CX_REGISTER(0x4000481c)
#define USART_CLEAR CX_REGISTER(0x40004820)
#define USART_DATA_IN CX_REGISTER(0x40004824)
#define USART_DATA_OUT CX_REGISTER(0x40004828)
#define WATCHDOG_KEY CX_REGISTER(0x58004800)
#define WATCHDOG_PRESCALER CX_REGISTER(0x58004804)
#define WATCHDOG_RELOAD CX_REGISTER(0x58004808)
#define WATCHDOG_STATUS CX_REGISTER(0x5800480c)
/* Of the second bank. */
#define FLASH_KEY CX_REGISTER(0x52002104)
#define FLASH_CONTROL CX_REGISTER(0x5200210c)
#define FLASH_STATUS CX_REGISTER(0x52002110)
#define FLASH_CLEAR CX_REGISTER(0x52002114)
#define CACHE_CONTROL CX_REGISTER(0xe000ed14)
#define CACHE_INVALIDATE_INSTRUCTIONS CX_REGISTER(0xe000ef50)

enum {
  SEND_PIN = 8,
  RECEIVE_PIN = 9,
  RECEIVE_INTERRUPT = 39,
  STATUS_OVERRUN = 1 << 3,
  STATUS_RECEIVED = 1 << 5,
  STATUS_SEND_EMPTY = 1 << 7,
  FLASH_LOCK = 1 << 0,
  FLASH_PROGRAM = 1 << 1,
  FLASH_SECTOR_ERASE = 1 << 2,
  FLASH_32_BITS = 2 << 4,
  FLASH_START = 1 << 7,
  FLASH_BUSY = 1 << 0 | 1 << 2,
  /* Write protection, sequence, strobe, inconsistency, operation. */
  FLASH_ERRORS = 1 << 17 | 1 << 18 | 1 << 19 | 1 << 21 | 1 << 22
};
#define BANK_2 0x08100000u

static uint32_t status;

void bd_start(void) {
  status = RCC_RESET_STATUS;
  RCC_RESET_STATUS = 1u << 16;
  CACHE_INVALIDATE_INSTRUCTIONS = 0;
  __asm volatile("dsb\n isb" ::: "memory");
  CACHE_CONTROL |= 1u << 17; /* instructions; flash that is written is data, and is read without a cache */
  __asm volatile("dsb\n isb" ::: "memory");
  RCC_AHB4ENR |= 1u << 3;
  RCC_APB1LENR |= 1u << 18;
  GPIOD_FUNCTION_HIGH = (GPIOD_FUNCTION_HIGH & ~0xffu) | 7u << 4 * (SEND_PIN - 8) | 7u << 4 * (RECEIVE_PIN - 8);
  GPIOD_MODE = (GPIOD_MODE & ~(3u << 2 * SEND_PIN | 3u << 2 * RECEIVE_PIN)) | 2u << 2 * SEND_PIN | 2u << 2 * RECEIVE_PIN;
  USART_RATE = (BD_CLOCK_HZ + 57600) / 115200;
  USART_CONTROL = 1u << 0 | 1u << 2 | 1u << 3 | 1u << 5; /* on; receive; send; interrupt on receive */
  cx_enable_interrupt(RECEIVE_INTERRUPT);
  WATCHDOG_KEY = 0xcccc; /* on, by an oscillator of 32 kHz, */
  WATCHDOG_KEY = 0x5555;
  WATCHDOG_PRESCALER = 6; /* divided by 256: */
  WATCHDOG_RELOAD = 0xfff; /* 33 seconds */
  while (WATCHDOG_STATUS != 0) {
  }
  WATCHDOG_KEY = 0xaaaa;
  cx_wake_regularly();
}

void bd_alive(void) { WATCHDOG_KEY = 0xaaaa; }

void bd_interrupt(void) {
  const uint32_t now = USART_STATUS;
  if (now & STATUS_OVERRUN) {
    USART_CLEAR = STATUS_OVERRUN;
    cx_byte_lost();
  }
  if (now & STATUS_RECEIVED) cx_received((uint8_t)USART_DATA_IN);
}

void bd_send(uint8_t byte) {
  while ((USART_STATUS & STATUS_SEND_EMPTY) == 0) {
  }
  USART_DATA_OUT = byte;
}

uint32_t bd_last_start(void) {
  if (status & 1u << 26) return MC_START_WATCHDOG;
  return status & 1u << 24 ? MC_START_REQUESTED : MC_START_POWER;
}

static void unlock(void) {
  if ((FLASH_CONTROL & FLASH_LOCK) == 0) return;
  FLASH_KEY = 0x45670123;
  FLASH_KEY = 0xcdef89ab;
}

/* Waits until the flash is done; answers whether it was done well. */
static int finish(void) {
  while (FLASH_STATUS & FLASH_BUSY) {
  }
  const uint32_t errors = FLASH_STATUS & FLASH_ERRORS;
  FLASH_CLEAR = errors;
  FLASH_CONTROL = FLASH_LOCK;
  return errors == 0;
}

int si_erase(uint32_t address) {
  unlock();
  FLASH_CLEAR = FLASH_ERRORS;
  FLASH_CONTROL = FLASH_SECTOR_ERASE | FLASH_32_BITS | (address - BANK_2) / BD_SECTOR_BYTES << 8;
  FLASH_CONTROL |= FLASH_START;
  return finish();
}

int si_write(uint32_t address, const uint8_t bytes[32]) {
  unlock();
  FLASH_CLEAR = FLASH_ERRORS;
  FLASH_CONTROL = FLASH_PROGRAM | FLASH_32_BITS;
  __asm volatile("isb\n dsb" ::: "memory");
  for (uint32_t at = 0; at < 32; at += 4) {
    uint32_t word;
    memcpy(&word, bytes + at, 4);
    CX_REGISTER(address + at) = word;
  }
  __asm volatile("isb\n dsb" ::: "memory");
  return finish() && memcmp((const void *)address, bytes, 32) == 0;
}
