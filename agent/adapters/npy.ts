import { EdgeError } from '../../configs/contracts/errors.js';

/** An array of NumPy's .npy format 1 to 3, as a view of the file's bytes where alignment allows. */
export interface NpyArray {
  readonly dims: readonly number[];
  readonly values: Uint8Array | Int8Array | Float32Array;
}

const magic = '\x93NUMPY';

/** Parses u1, i1 and little-endian f4 arrays in C order. Fails with `samples/unreadable`. */
export function parseNpy(file: Uint8Array, subject: string): NpyArray {
  const fail = (what: string) => new EdgeError('samples/unreadable', `not a usable .npy file: ${what}`, { subject });
  const ascii = (from: number, to: number) => String.fromCharCode(...file.subarray(from, to));
  if (file.length < 12 || ascii(0, 6) !== magic) throw fail('wrong signature');
  const view = new DataView(file.buffer, file.byteOffset, file.byteLength);
  const isLong = file[6]! >= 2;
  const headerStart = isLong ? 12 : 10;
  const headerLength = isLong ? view.getUint32(8, true) : view.getUint16(8, true);
  const start = headerStart + headerLength;
  if (start > file.length || headerLength > 65536) throw fail('header past the end');
  const header = ascii(headerStart, start);
  const type = /'descr':\s*'([^']+)'/.exec(header)?.[1];
  const shape = /'shape':\s*\(([^)]*)\)/.exec(header)?.[1];
  if (type === undefined || shape === undefined || /'fortran_order':\s*True/.test(header))
    throw fail('unsupported header');
  const dims = shape
    .split(',')
    .filter((part) => part.trim() !== '')
    .map(Number);
  const bytesPerValue = { '|u1': 1, '|i1': 1, '<f4': 4 }[type];
  if (bytesPerValue === undefined) throw fail(`values of type ${type}; use u1, i1 or little-endian f4`);
  const count = dims.reduce((a, b) => a * b, 1);
  if (
    dims.length === 0 ||
    !dims.every((dim) => Number.isInteger(dim) && dim >= 0) ||
    count * bytesPerValue !== file.length - start
  ) {
    throw fail(`shape (${shape}) does not fit ${file.length - start} bytes`);
  }
  const body = file.subarray(start);
  if (type === '|u1') return { dims, values: body };
  if (type === '|i1') return { dims, values: new Int8Array(body.buffer, body.byteOffset, count) };
  // Not slice(), which of a Buffer is no copy.
  const aligned = body.byteOffset % 4 === 0 ? body : new Uint8Array(body);
  return { dims, values: new Float32Array(aligned.buffer, aligned.byteOffset, count) };
}
