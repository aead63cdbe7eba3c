/** A gateway that can be killed: uploads FILE to a SLOT of the microcontroller at PATH, and prints how far it is. */
import { readFileSync } from 'node:fs';
import { upload } from '../../firmware-bridge/flash.js';
import { Mcu } from '../../firmware-bridge/mcu.js';

const [path, slot, file] = process.argv.slice(2);
const mcu = await Mcu.open(path!, { handshakeMs: 20_000, replyTimeoutMs: 5000 });
await upload(mcu, Number(slot), readFileSync(file!), { progress: (done) => process.stdout.write(`${done}\n`) });
await mcu.close();
