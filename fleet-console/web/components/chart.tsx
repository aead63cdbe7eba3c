/** Charts. What a chart shows also stands in a table beside it, for those who do not see it. */
import { useEffect, useRef, useState } from 'preact/hooks';
import uPlot from 'uplot';
import type { FrontierPoint } from '../../../configs/contracts/device.js';
import { bytesText, digits, latencyText } from '../format.js';
import { onThemeChange } from '../theme.js';

const chartHeight = 280;

/** A point of a frontier chart beside the frontier itself. */
export interface MarkedPoint {
  readonly latency: number;
  readonly sensitivity: number;
}

/** Plans to choose from: latency against sensitivity, with the ceiling on latency and the plan that was chosen. */
export function FrontierChart({
  points,
  unit,
  ceiling,
  chosen,
}: {
  points: readonly FrontierPoint[];
  unit: string;
  /** In the unit; null without one. */
  ceiling: number | null;
  chosen: MarkedPoint | null;
}) {
  const host = useRef<HTMLDivElement>(null);
  const [round, setRound] = useState(0);
  // Documents that come again with the same content draw nothing anew.
  const shown = JSON.stringify([points, unit, ceiling, chosen]);
  useEffect(() => onThemeChange(() => setRound((number) => number + 1)), []);
  // Colours are read again when the theme changes.
  useEffect(() => {
    const box = host.current;
    if (box === null) return undefined;
    const all = [...points.map(({ latency, sensitivity }) => ({ latency, sensitivity, isChosen: false }))];
    if (chosen !== null) all.push({ ...chosen, isChosen: true });
    all.sort((a, b) => a.latency - b.latency);
    const data: uPlot.AlignedData = [
      all.map(({ latency }) => latency),
      all.map(({ sensitivity, isChosen }) => (isChosen ? null : sensitivity)),
      all.map(({ sensitivity, isChosen }) => (isChosen ? sensitivity : null)),
    ];
    const colour = (name: string) => colourOf(box, name);
    const [ink, line, accent, bad] = ['--quiet', '--line', '--accent', '--bad'].map(colour) as [
      string,
      string,
      string,
      string,
    ];
    const axis = { stroke: ink, grid: { stroke: line, width: 1 }, ticks: { stroke: line, width: 1 } };
    const xs = all.map(({ latency }) => latency);
    const ends = ceiling === null ? xs : [...xs, ceiling];
    const [low, high] = [Math.min(...ends), Math.max(...ends)];
    const margin = (high - low || high || 1) * 0.08;
    const plot = new uPlot(
      {
        width: box.clientWidth,
        height: chartHeight,
        legend: { show: false },
        cursor: { show: false },
        scales: { x: { time: false, range: [Math.max(0, low - margin), high + margin] } },
        axes: [
          { ...axis, label: `expected latency (${unit})`, labelSize: 22, values: (_plot, ticks) => ticks.map(digits) },
          {
            ...axis,
            label: 'sensitivity (less is better)',
            labelSize: 22,
            size: 64,
            values: (_plot, ticks) => ticks.map(digits),
          },
        ],
        series: [
          {},
          { stroke: accent, width: 1.5, spanGaps: true, points: { show: true, size: 7, fill: accent } },
          {
            stroke: bad,
            width: 0,
            points: { show: true, size: 13, fill: colour('--ground'), stroke: accent, width: 3 },
          },
        ],
        hooks: {
          draw: [
            (plot) => {
              if (ceiling === null) return;
              const x = Math.round(plot.valToPos(ceiling, 'x', true));
              const { ctx, bbox } = plot;
              ctx.save();
              ctx.strokeStyle = bad;
              ctx.lineWidth = 2 * devicePixelRatio;
              ctx.setLineDash([6 * devicePixelRatio, 4 * devicePixelRatio]);
              ctx.beginPath();
              ctx.moveTo(x, bbox.top);
              ctx.lineTo(x, bbox.top + bbox.height);
              ctx.stroke();
              ctx.restore();
            },
          ],
        },
      },
      data,
      box,
    );
    const observer = new ResizeObserver(() => plot.setSize({ width: box.clientWidth, height: chartHeight }));
    observer.observe(box);
    return () => {
      observer.disconnect();
      plot.destroy();
    };
  }, [shown, round]);
  return (
    <figure>
      <div
        ref={host}
        class="chart"
        style={{ minHeight: `${chartHeight}px` }}
        role="img"
        aria-label={`Frontier of ${points.length} plans, latency against sensitivity; the table below has its values`}
      />
      <figcaption>
        Each dot is a plan that nothing beats in both. {chosen !== null && 'The ring is the plan that is shown here. '}
        {ceiling !== null && `The dashed line is the budget, ${latencyText(ceiling, unit)}.`}
      </figcaption>
      <details>
        <summary>Plans as a table</summary>
        <table class="plain">
          <caption class="hidden">Plans of the frontier</caption>
          <thead>
            <tr>
              <th scope="col" class="number">
                Latency
              </th>
              <th scope="col" class="number">
                Sensitivity
              </th>
              <th scope="col" class="number">
                Size
              </th>
              <th scope="col" class="number">
                Weight bits
              </th>
            </tr>
          </thead>
          <tbody>
            {points.map((point) => (
              <tr key={`${point.latency} ${point.sensitivity}`}>
                <td class="number">{latencyText(point.latency, unit)}</td>
                <td class="number">{digits(point.sensitivity)}</td>
                <td class="number">{bytesText(point.sizeBytes)}</td>
                <td class="number">{digits(point.averageWeightBits)}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </details>
    </figure>
  );
}

/** The colour that a custom property has here and now, in a form that a canvas takes. */
function colourOf(host: HTMLElement, name: string): string {
  const probe = document.createElement('span');
  probe.style.color = `var(${name})`;
  host.append(probe);
  const { color } = getComputedStyle(probe);
  probe.remove();
  return color;
}

/** A bar in a cell: a share of the longest one, with its value in words. */
export function Bar({
  share,
  text,
  tone = 'accent',
}: {
  share: number;
  text: string;
  tone?: 'accent' | 'soft' | 'bad';
}) {
  const percent = Number.isFinite(share) ? Math.min(100, Math.max(0, share * 100)) : 0;
  return (
    <span class="bar-cell">
      <span class="bar-track" aria-hidden="true">
        <span class={`bar ${tone}`} style={{ width: `${percent}%` }} />
      </span>
      <span class="bar-text">{text}</span>
    </span>
  );
}

/** Parts of a whole in one line; the legend names them. */
export function Shares({ parts }: { parts: readonly { name: string; count: number; tone: string }[] }) {
  const total = parts.reduce((sum, { count }) => sum + count, 0);
  const shown = parts.filter(({ count }) => count > 0);
  return (
    <div class="shares">
      <div class="share-line" aria-hidden="true">
        {shown.map(({ name, count, tone }) => (
          <span key={name} class={`share ${tone}`} style={{ width: `${(count / total) * 100}%` }} />
        ))}
      </div>
      <ul class="legend">
        {shown.map(({ name, count, tone }) => (
          <li key={name}>
            <span class={`swatch ${tone}`} aria-hidden="true" />
            {count.toLocaleString('en')} {name}
          </li>
        ))}
      </ul>
    </div>
  );
}
