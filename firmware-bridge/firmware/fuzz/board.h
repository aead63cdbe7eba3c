/* The board of fuzz_wire: small, so that its limits are met often. */
#define BD_NAME "fuzz"
#define BD_CORE "host"
#define BD_FIRMWARE "0000000000000000"
#define BD_CLOCK_HZ 0u
#define BD_RAM_BYTES 0x10000u
#define BD_FLASH_BYTES 0x10000u
#define BD_SECTOR_BYTES 512u
#define BD_SLOT_BYTES 16384u
