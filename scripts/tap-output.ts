/** What one test file printed, read as far as a runner needs it. */
export interface TapOutput {
  /** Top-level results that passed: the tests of the file. */
  readonly passed: number;
  /** One per failed test, with what it printed; results that passed are left out. */
  readonly failures: readonly Failure[];
  /** Every skipped or unfinished (`todo`) test, at any depth. */
  readonly skipped: readonly Skip[];
  /** The file printed its plan and as many results as it planned: it ran to its end. */
  readonly isComplete: boolean;
  /** `#` lines of the file itself, such as its seed. */
  readonly comments: readonly string[];
}

export interface Failure {
  readonly name: string;
  readonly output: readonly string[];
}

export interface Skip {
  readonly name: string;
  readonly reason: string;
}

const resultLine = /^( *)(not )?ok \d+(?: - (.*))?$/;
const directive = /^(.*?) ?# (SKIP|TODO)\b ?(.*)$/;

/**
 * Reads TAP 14 as tap prints it: results of a file at the left margin, those of its subtests indented above them. Never throws:
 * output that is no TAP holds no results and is not complete.
 */
export function readTapOutput(text: string): TapOutput {
  let passed = 0;
  let results = 0;
  let planned: number | null = null;
  let block: string[] = [];
  let diagnostics: string[] | null = null;
  const failures: { name: string; output: string[] }[] = [];
  const skipped: Skip[] = [];
  const comments: string[] = [];
  for (const line of text.split('\n')) {
    if (diagnostics !== null && line.startsWith('  ')) {
      diagnostics.push(line);
      continue;
    }
    diagnostics = null;
    const [, indent, failed, rest = ''] = resultLine.exec(line) ?? [];
    const [, name = withoutTime(rest), kind, reason = ''] = directive.exec(rest) ?? [];
    if (kind !== undefined) skipped.push({ name, reason: kind === 'TODO' ? `todo ${reason}`.trim() : reason });
    if (indent === '') {
      results++;
      if (kind === undefined && failed === undefined) passed++;
      if (kind === undefined && failed !== undefined) {
        failures.push({ name, output: block });
        // Of a subtest they only say where it stands; of a single assertion they say what is wrong.
        diagnostics = block.length === 0 ? block : [];
      }
      block = [];
      continue;
    }
    const [, count, reasonForNone] = /^1\.\.(\d+)(?: # (?:SKIP )?(.*))?$/.exec(line) ?? [];
    if (count !== undefined) {
      planned = Number(count);
      if (reasonForNone !== undefined) skipped.push({ name: 'the whole file', reason: reasonForNone });
    } else if (/^# (?!Subtest|time=|\{ total)/.test(line)) comments.push(line);
    else if (
      (indent === undefined || failed !== undefined) &&
      !/^ *(TAP version.*|# Subtest.*|1\.\.\d+.*)?$/.test(line)
    )
      block.push(line);
  }
  return { passed, failures, skipped, isComplete: planned === results, comments };
}

function withoutTime(name: string): string {
  return name.replace(/ # time=[\d.]+m?s$/, '');
}
