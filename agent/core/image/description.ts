import { EdgeError } from '../../../configs/contracts/errors.js';
import { headerFields, type ImageDescription, imageMagic } from '../../../configs/contracts/image.js';

/** Whether these bytes begin as an image does. */
export function isImage(bytes: Uint8Array): boolean {
  return bytes.length >= 4 * headerFields.length && wordsOf(bytes).getUint32(0, true) === imageMagic;
}

/** What an image says of itself. Fails with `artifact/invalid`; whether the engine takes the image is another question. */
export function readDescription(bytes: Uint8Array): ImageDescription {
  const word = (field: (typeof headerFields)[number]) =>
    wordsOf(bytes).getUint32(4 * headerFields.indexOf(field), true);
  const start = word('dataOffset') + word('descriptionOffset');
  try {
    const text = new TextDecoder('utf-8', { fatal: true }).decode(
      bytes.subarray(start, start + word('descriptionBytes')),
    );
    const value = JSON.parse(text) as Partial<ImageDescription> | null;
    const isShaped = (list: unknown): boolean =>
      Array.isArray(list) &&
      list.every(
        (item: { name?: unknown; dims?: unknown } | null) =>
          typeof item?.name === 'string' && Array.isArray(item.dims) && item.dims.every(Number.isInteger),
      );
    if (isShaped(value?.inputs) && isShaped(value?.outputs) && Array.isArray(value?.operators))
      return value as ImageDescription;
  } catch {
    // Told below.
  }
  throw new EdgeError('artifact/invalid', 'the image does not describe itself', { subject: 'image' });
}

function wordsOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
