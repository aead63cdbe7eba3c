/* Between cortex_m.c, the processor's part, and a board's file. */
#ifndef CX_CORTEX_M_H
#define CX_CORTEX_M_H

#include <stdint.h>

#define CX_REGISTER(address) (*(volatile uint32_t *)(address))

/* The board's part: */

/* Starts clocks, the serial line with its receive interrupt, and the timer. */
void bd_start(void);
/* Every interrupt of the board comes here: takes what was received to cx_received. */
void bd_interrupt(void);
/* Sends one byte when the line takes it. */
void bd_send(uint8_t byte);
/* The timer that counts where the processor's cycle counter does not; BD_TIMER_HZ. Stop answers 0 when it went around. */
void bd_timer_start(void);
int bd_timer_stop(uint32_t *ticks);
extern const char bd_timer_name[];
/* MC_START_*, of the reset before; MC_START_POWER where the chip does not say. */
uint32_t bd_last_start(void);

/* Tells the watchdog, where there is one, that all is well; at least before and after whatever takes long. */
void bd_alive(void);

/* The processor's part: */

/* Wakes the sleeping processor some times a second, for boards with a watchdog. */
void cx_wake_regularly(void);

/* Number of the board's receive interrupt, to be enabled. */
void cx_enable_interrupt(uint32_t number);
/* Takes a received byte into the ring, or counts it as lost. */
void cx_received(uint8_t byte);
void cx_byte_lost(void);

#endif
