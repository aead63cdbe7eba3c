/** A plan: which bits each operator got, what it costs there, and how much that hurts. */
import type { PlannedOperator } from '../documents.js';
import { digits, latencyText } from '../format.js';
import { Bar } from './chart.js';

const width = 800;
const height = 130;

/** Bars over the operators: weight bits filled, activation bits as a line. */
export function BitsChart({ operators }: { operators: readonly PlannedOperator[] }) {
  const most = Math.max(8, ...operators.flatMap(({ weightBits, inputBits }) => [weightBits ?? 0, inputBits]));
  const step = width / Math.max(1, operators.length);
  const y = (bits: number) => height - 12 - (bits / most) * (height - 24);
  const grid = most > 16 ? [8, 16, 32] : most > 8 ? [4, 8, 16] : [2, 4, 6, 8];
  const outline = operators
    .map(({ inputBits }, index) => `${index === 0 ? 'M' : 'L'}${index * step} ${y(inputBits)}h${step}`)
    .join('');
  return (
    <figure>
      <div class="bits-box">
        {grid.map((bits) => (
          <span key={bits} aria-hidden="true" style={{ top: `${(y(bits) / height) * 100}%` }}>
            {bits}
          </span>
        ))}
        <svg
          class="bits"
          viewBox={`0 0 ${width} ${height}`}
          preserveAspectRatio="none"
          role="img"
          aria-label={`Bits of ${operators.length} operators in the order in which they run; the table below has their values`}
        >
          {grid.map((bits) => (
            <line key={bits} class="grid" x1={0} x2={width} y1={y(bits)} y2={y(bits)} />
          ))}
          {operators.map(({ name, weightBits }, index) =>
            weightBits === null ? null : (
              <rect
                key={name}
                class="weights"
                x={index * step + step * 0.1}
                width={step * 0.8}
                y={y(weightBits)}
                height={height - 12 - y(weightBits)}
              />
            ),
          )}
          <path class="activations" d={outline} vector-effect="non-scaling-stroke" />
        </svg>
      </div>
      <figcaption>
        <span class="swatch accent" aria-hidden="true" /> bits of weights{' '}
        <span class="swatch busy" aria-hidden="true" /> bits of activations that an operator reads, in the order in
        which operators run
      </figcaption>
    </figure>
  );
}

/** The same in numbers, with latency and sensitivity beside. */
export function PlanTable({ operators, unit }: { operators: readonly PlannedOperator[]; unit: string }) {
  const slowest = Math.max(...operators.map(({ latency }) => latency), 0);
  const worst = Math.max(...operators.map(({ sensitivity }) => sensitivity), 0);
  const sum = operators.reduce((total, { latency }) => total + latency, 0);
  return (
    // biome-ignore lint/a11y/noNoninteractiveTabindex: what scrolls must be reachable by the keyboard
    <section class="scroll" tabIndex={0} aria-label="Operators of the plan">
      <table>
        <caption class="hidden">Operators in the order in which they run</caption>
        <thead>
          <tr>
            <th scope="col">Operator</th>
            <th scope="col">Precision</th>
            <th scope="col">Latency, {latencyText(sum, unit)} in all</th>
            <th scope="col">Sensitivity</th>
          </tr>
        </thead>
        <tbody>
          {operators.map(({ name, op, weightBits, inputBits, outputBits, kernel, latency, sensitivity }) => (
            <tr key={name}>
              <th scope="row">
                {name}
                <small>{op}</small>
              </th>
              <td>
                {weightBits === null ? `A${inputBits}` : `W${weightBits}A${inputBits}`}
                <small>
                  {outputBits !== undefined && outputBits !== inputBits && `out ${outputBits} bits `}
                  {kernel}
                </small>
              </td>
              <td>
                <Bar share={latency / slowest} text={latencyText(latency, unit)} />
              </td>
              <td>
                <Bar share={sensitivity / worst} text={digits(sensitivity)} tone="soft" />
              </td>
            </tr>
          ))}
        </tbody>
      </table>
    </section>
  );
}
