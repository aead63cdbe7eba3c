/** What a device tells others of a model that it has made: its latency rows, and what there is to plan from. */
import { fewestSamples, type ModelTable, type Provenance, type TableProblem } from '../../configs/contracts/tables.js';
import { contentKey, sha256 } from '../digest.js';
import { type Job, pipelineVersion, type QuantizeResult } from '../pipeline.js';
import { profileKeys, storedRows } from './profile.js';

/**
 * The table of a finished run. Rows are as the store has them; the problem is that of the candidates. Made-up samples have nothing to hide;
 * of real ones, sensitivities are told only where they are means over `fewestSamples` or more.
 */
export function modelTable(job: Job, result: QuantizeResult): ModelTable {
  const { identity, counter, experience, sensitivity, calibration } = result;
  const isTold = calibration.source !== 'samples' || sensitivity.samples >= fewestSamples;
  const keys = new Set(profileKeys(job));
  return {
    schema: 'quantd/table/1',
    identity: contentKey(identity),
    kind: identity.kind,
    counter,
    modelSha256: job.modelSha256,
    rows: storedRows(job, result.table.rows).filter(({ operatorKey }) => keys.has(operatorKey)),
    problem: isTold ? problemOf(job, result) : null,
    experience: { ratio: experience.ratio, int8Ratio: experience.int8Ratio },
    provenance: provenanceOf(job, result),
  };
}

function problemOf({ prepared }: Job, { candidates }: QuantizeResult): TableProblem {
  const { operators, edges, ties, fixed } = candidates;
  const described = operators.map((operator, index) => {
    const { key, op, weight, parameters } = prepared.operators[index]!;
    return { ...operator, key, type: op, parameters: weight === null ? 0 : parameters };
  });
  // Plain and without what is undefined, as it will be read.
  return JSON.parse(JSON.stringify({ operators: described, edges, ties, fixed })) as TableProblem;
}

/** What the artifact of a run was made from, by what, and what it measured. */
export function provenanceOf(job: Job, result: QuantizeResult): Provenance {
  const { chosen, sensitivity, tuning, calibration, table, counter } = result;
  const precisions = chosen?.plan.problem.operators.map(({ name, choices }, index) => {
    return [name, choices[chosen.plan.assignment[index]!]!.precision];
  });
  return {
    modelSha256: job.modelSha256,
    algorithm: pipelineVersion,
    estimator: sensitivity.estimator,
    rule: tuning.rule,
    calibration: { source: calibration.source, samples: calibration.samples },
    tableDigest: contentKey(table.rows),
    donorDigest: table.rows.find(({ donor }) => donor !== undefined)?.donor ?? null,
    planDigest: precisions === undefined ? null : contentKey(precisions),
    artifactSha256: chosen === null ? null : sha256(chosen.bytes),
    measuredLatency: chosen === null ? null : counter === 'nanoseconds' ? chosen.latency / 1e6 : chosen.latency,
  };
}
