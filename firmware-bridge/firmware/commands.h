/* The commands of the protocol, by number: one row of MC_COMMANDS and one function of commands.c each. */
#ifndef CM_COMMANDS_H
#define CM_COMMANDS_H

#include <stddef.h>
#include <stdint.h>

#include "protocol.h"

#define CM_NUMBER(name, number, request, data, reply, long) CM_NUMBER_##name = number,
enum { MC_COMMANDS(CM_NUMBER) CM_HELLO = CM_NUMBER_hello };
#undef CM_NUMBER

/* A request that is being answered. Records lie on multiples of 8. */
typedef struct {
  const uint8_t *request;
  uint32_t request_bytes; /* data included */
  uint8_t *reply;
  uint32_t reply_data_room; /* behind the record of the reply, after cm_execute began */
  uint32_t reply_data_bytes;
  uint32_t detail; /* of a failure */
  int resets;      /* the chip starts anew when the reply is sent */
} cm_call;

typedef struct {
  uint32_t number, request_bytes, reply_bytes;
  uint8_t takes_data, takes_long;
  uint32_t (*run)(cm_call *call); /* answers an MC_STATUS_* */
} cm_command;

/* The command of a number, or NULL. */
const cm_command *cm_find(uint32_t number);
/* Whether a request of this length can be one for the command. */
int cm_fits(const cm_command *command, uint32_t request_bytes);
/* Runs it; the request fits. */
uint32_t cm_execute(const cm_command *command, cm_call *call);

#endif
