// A pseudo-terminal whose other end says what comes in here: prints its path, then passes standard input on until that ends.
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <termios.h>
#include <unistd.h>

int main(void) {
  int master = posix_openpt(O_RDWR | O_NOCTTY);
  if (master < 0 || grantpt(master) != 0 || unlockpt(master) != 0) return 1;
  // Held open, so that the terminal stays while nobody else has it; raw, so that bytes pass as they are.
  int slave = open(ptsname(master), O_RDWR | O_NOCTTY);
  struct termios settings;
  if (slave < 0 || tcgetattr(slave, &settings) != 0) return 1;
  cfmakeraw(&settings);
  tcsetattr(slave, TCSANOW, &settings);
  printf("%s\n", ptsname(master));
  fflush(stdout);
  char bytes[4096];
  for (ssize_t count; (count = read(0, bytes, sizeof bytes)) > 0;) {
    if (write(master, bytes, count) != count) return 1;
  }
  return 0;
}
