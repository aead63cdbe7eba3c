/** The status page: plain HTML that asks the API and listens to its stream. Works without any other site. */

/** The page itself. */
export const pageHtml = `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>Quantd fleet</title>
<link rel="icon" href="/icon.svg" type="image/svg+xml">
<link rel="stylesheet" href="/page.css">
</head>
<body>
<header><h1>Fleet</h1><p id="summary" role="status">Loading…</p></header>
<main>
<p id="problem" role="alert" hidden></p>
<table id="devices" hidden>
<caption>Devices and what runs on them</caption>
<thead><tr>
<th scope="col">Device</th><th scope="col">State</th><th scope="col">Active model</th><th scope="col">Budget</th>
<th scope="col" class="number">Latency</th><th scope="col" class="number">int8</th><th scope="col" class="number">Top-1</th>
<th scope="col" class="number">Agreement</th><th scope="col" class="number">Size</th><th scope="col">Now</th>
</tr></thead>
<tbody></tbody>
</table>
<p id="empty" hidden>No device has connected yet. Start one: <code>quantd run</code></p>
<h2>Events</h2>
<ol id="events"><li class="quiet">Nothing has happened since this page was opened.</li></ol>
</main>
<script src="/page.js"></script>
</body>
</html>
`;

/** Its style: light and dark as the system has it. */
export const pageStyle = `:root { color-scheme: light dark; --line: light-dark(#d8dce2, #343a44); --quiet: light-dark(#5a6472, #9aa4b2);
  --good: light-dark(#0a7a3d, #4cc38a); --bad: light-dark(#b3261e, #ff8a80); --busy: light-dark(#8a5a00, #ffc966); }
body { font: 15px/1.45 system-ui, sans-serif; margin: 0; padding: 1.5rem clamp(1rem, 4vw, 3rem); background: light-dark(#fff, #14171c);
  color: light-dark(#1b1f24, #e6e9ee); }
header { display: flex; flex-wrap: wrap; align-items: baseline; gap: .5rem 1.5rem; }
h1 { font-size: 1.4rem; margin: 0; } h2 { font-size: 1.05rem; margin: 2rem 0 .5rem; }
#summary { margin: 0; color: var(--quiet); }
main { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; margin-top: 1rem; }
caption { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
th, td { text-align: left; padding: .45rem .8rem .45rem 0; border-bottom: 1px solid var(--line); vertical-align: top; overflow-wrap: break-word; }
th { font-weight: 600; color: var(--quiet); white-space: nowrap; } .number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.good { color: var(--good); } .bad { color: var(--bad); } .busy { color: var(--busy); } .quiet { color: var(--quiet); }
td:nth-child(-n+2) { min-width: 9rem; } td:last-child { min-width: 9rem; padding-right: 0; }
small { display: block; color: var(--quiet); } progress { display: block; width: 8rem; max-width: 100%; margin: .3rem 0 .15rem; }
#events { list-style: none; padding: 0; margin: 0; } #events li { padding: .3rem 0; border-bottom: 1px solid var(--line); overflow-wrap: anywhere; }
#events time { color: var(--quiet); font-variant-numeric: tabular-nums; margin-right: .8rem; } #events b { font-weight: 600; margin-right: .8rem; } code { background: light-dark(#f0f2f5, #232831); padding: .1em .35em; border-radius: 4px; }
#problem { color: var(--bad); }
@media (max-width: 72rem) {
  thead { display: none; } table, tr { display: block; }
  tbody { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(20rem, 100%), 1fr)); gap: 1rem; }
  tr { border: 1px solid var(--line); border-radius: 8px; padding: .8rem 1rem; }
  td, td:nth-child(n) { display: grid; grid-template-columns: 7rem 1fr; gap: .8rem; border: 0; padding: .12rem 0; min-width: 0; text-align: left;
    white-space: normal; overflow-wrap: anywhere; }
  td::before { content: attr(data-label); color: var(--quiet); }
  td:first-child { display: block; font-weight: 600; padding-bottom: .4rem; } td:first-child::before { content: none; }
  td:first-child small { font-weight: 400; } td.absent { display: none; }
}
`;

/** Its icon: bits, of three widths. */
export const pageIcon = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16"><path fill="#0a7a3d" d="M1 2h14v3H1zM1 6.5h9v3H1zM1 11h5v3H1z"/></svg>
`;

/** Its script. Everything that devices say is put in as text, never as markup. */
export const pageScript = `'use strict';
const devices = new Map();
const body = document.querySelector('#devices tbody');
const byId = (id) => document.getElementById(id);
const ms = (value, unit) => (value == null ? '–' : value.toPrecision(3) + ' ' + unit);
const percent = (value) => (value == null ? '–' : (value * 100).toFixed(1) + ' %');
const bytes = (value) => value == null ? '–' : value < 1048576 ? (value / 1024).toFixed(1) + ' KB' : (value / 1048576).toFixed(2) + ' MB';
// What belongs together is not broken over lines.
const whole = (text) => text.replaceAll(' ', '\u00a0');
const budgetText = (budget) => Object.entries(budget || {}).map(([name, value]) => whole({
  latencyMs: 'latency ≤ ' + value + ' ms', latencyRatio: 'latency ≤ ' + value + ' × int8', sizeBytes: 'size ≤ ' + bytes(value),
  ramBytes: 'RAM ≤ ' + bytes(value), flashBytes: 'flash ≤ ' + bytes(value), energyMj: 'energy ≤ ' + value + ' mJ',
  drop: 'drop ≤ ' + percent(value), agreement: 'agreement ≥ ' + percent(value) }[name] || name + ' ' + value)).join(', ') || 'none';

function stateOf(device) {
  if (device.isAhead) return ['ahead of this console', 'bad', 'Its last orders are not in this database. Nothing is sent to it; see fleet device --help.'];
  const said = (type) => (device.reported?.conditions || []).find((c) => c.type === type && c.status === 'true');
  const refused = (device.reported?.conditions || []).find((c) => c.type === 'Accepted' && c.status === 'false');
  const trouble = said('Degraded') || said('RolledBack');
  if (!device.isOnline) return ['offline', 'quiet', 'last seen ' + new Date(device.lastSeen).toLocaleString()];
  if (refused) return ['in trouble', 'bad', refused.message];
  // What it says of older orders says nothing of these.
  if (device.desired && (device.reported?.observedGeneration ?? 0) < device.desired.generation) {
    return ['working', 'busy', 'has not seen its newest orders yet'];
  }
  if (trouble) return [trouble.type === 'RolledBack' ? 'rolled back' : 'in trouble', 'bad', trouble.message];
  if (said('BudgetInfeasible')) return ['budget infeasible', 'bad', said('BudgetInfeasible').message];
  if (said('Confirmed')) return ['confirmed', 'good', ''];
  return [said('Active') ? 'proving itself' : device.desired ? 'working' : 'idle', 'busy', ''];
}

function cell(row, label, text, name) {
  const td = row.insertCell();
  td.dataset.label = label;
  if (name) td.className = name;
  if (text === '–') td.classList.add('absent');
  const box = td.appendChild(document.createElement('div'));
  box.append(text);
  return box;
}

function rowOf(device) {
  const row = document.createElement('tr');
  const [state, tone, why] = stateOf(device);
  const target = Object.values(device.reported?.targets || {})[0] || {};
  const active = target.active;
  const wanted = Object.values(device.desired?.targets || {})[0];
  cell(row, 'Device', device.id).append(...small(Object.entries(device.birth.labels).map((l) => l.join('=')).join(' ')));
  cell(row, 'State', state, tone).append(...small(why));
  const other = wanted && active?.release !== wanted.release.id ? 'wanted:\u00a0' + wanted.release.id : '';
  cell(row, 'Active model', active ? active.release : other ? 'none' : '–').append(...small(other));
  cell(row, 'Budget', budgetText(wanted?.budget));
  const m = active?.measurements;
  cell(row, 'Latency', ms(m?.latency.measured, m?.latency.unit), 'number');
  cell(row, 'int8', ms(m?.latency.int8, m?.latency.unit), 'number');
  cell(row, 'Top-1', percent(m?.quality.top1), 'number');
  cell(row, 'Agreement', percent(m?.quality.agreement), 'number');
  cell(row, 'Size', bytes(m?.sizeBytes), 'number');
  const now = cell(row, 'Now', target.step ? target.step.name + ' ' : '–');
  if (target.step) {
    const bar = document.createElement('progress');
    bar.value = target.step.share;
    bar.setAttribute('aria-label', target.step.name + ' of ' + device.id);
    now.append(bar, ...small(target.step.text));
  }
  return row;
}

function small(text) {
  if (!text) return [];
  const element = document.createElement('small');
  element.textContent = text;
  return [element];
}

let isDue = false;
function render() {
  if (isDue) return;
  isDue = true;
  requestAnimationFrame(() => {
    isDue = false;
    const all = [...devices.values()].sort((a, b) => (a.id < b.id ? -1 : 1));
    body.replaceChildren(...all.map(rowOf));
    byId('devices').hidden = all.length === 0;
    byId('empty').hidden = all.length > 0;
    const online = all.filter((d) => d.isOnline).length;
    byId('summary').textContent = all.length + (all.length === 1 ? ' device, ' : ' devices, ') + online + ' online';
  });
}

function show(problem) {
  byId('problem').hidden = problem === '';
  byId('problem').textContent = problem;
}

async function ask(path) {
  const response = await fetch(path);
  if (!response.ok) throw new Error((await response.json().catch(() => ({}))).title || response.statusText);
  return response.json();
}

async function loadAll() {
  let after = '';
  do {
    const page = await ask('/v1/devices?limit=200&after=' + encodeURIComponent(after));
    for (const device of page.devices) devices.set(device.id, device);
    after = page.next;
  } while (after !== null);
  show('');
  render();
}

const waiting = new Set();
setInterval(() => {
  for (const id of waiting) ask('/v1/devices/' + encodeURIComponent(id)).then((device) => { devices.set(id, device); render(); }, () => {});
  waiting.clear();
}, 250);

const stream = new EventSource('/v1/events');
stream.addEventListener('device', (message) => waiting.add(JSON.parse(message.data).id));
stream.addEventListener('event', (message) => {
  const { device, type, message: text, time } = JSON.parse(message.data);
  const item = document.createElement('li');
  const when = document.createElement('time');
  when.dateTime = time;
  when.textContent = new Date(time).toLocaleTimeString();
  const who = document.createElement('b');
  who.textContent = device;
  item.append(when, who, type + (text ? ': ' + text : ''));
  const list = byId('events');
  list.querySelector('.quiet')?.remove();
  list.prepend(item);
  while (list.children.length > 50) list.lastChild.remove();
});
stream.addEventListener('open', () => loadAll().catch((error) => show(error.message)));
stream.addEventListener('error', () => show('The console does not answer; trying again.'));
`;
