/** What others have written, as part of a sentence: its first line, without what terminals take for commands, and not long. */
export function oneLine(text: string, most = 200): string {
  const [first = ''] = text.trim().split(/[\r\n\u2028\u2029]/, 1);
  const plain = first.replace(/\p{C}+/gu, ' ').trim();
  return plain.length <= most ? plain : `${plain.slice(0, most - 1)}…`;
}
