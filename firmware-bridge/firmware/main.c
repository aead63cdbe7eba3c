/* The firmware: answers what the line asks, and sleeps in between. */
#include "model.h"
#include "platform.h"
#include "protocol.h"
#include "store.h"
#include "wire.h"

int main(void) {
  pf_start();
  st_start();
  uint32_t ignored;
  if (st_journal()->active != MC_NO_SLOT) md_load(st_journal()->active, &ignored);
  for (;;) {
    for (int32_t byte = pf_receive(); byte >= 0; byte = pf_receive()) wi_take((uint8_t)byte);
    pf_wait();
  }
}
