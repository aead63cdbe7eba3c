/** Releases: what there is, a new one, and whom it is assigned to. */
import { useState } from 'preact/hooks';
import type { Release } from '../../../configs/contracts/release.js';
import type { Overview } from '../../server/fleet-view.js';
import { ApiError, send, upload, useDocument, withQuery } from '../api.js';
import { announce } from '../components/announce.js';
import { Await, Button, Empty, ErrorBox, PageHead, Progress, Section, Time } from '../components/basics.js';
import { BudgetFields, budgetOf, emptyDraft } from '../components/budget-editor.js';
import { Shares } from '../components/chart.js';
import { Confirm, Field, useAction } from '../components/form.js';
import { Table } from '../components/table.js';
import { budgetText, bytesText, countText, digestText } from '../format.js';
import { useReloadOnNews } from '../live.js';
import { Link } from '../router.js';

type Known = Release & { readonly createdAt: string };
interface Assignment {
  readonly number: number;
  readonly selector: string;
  readonly target: string;
  readonly release: string;
  readonly createdAt: string;
  readonly rollout: number | null;
}

/** Browsers digest a file as a whole, in memory: beyond this the command line is the way. */
const mostBrowserBytes = 512 * 2 ** 20;

/** The page. */
export function Releases() {
  const releases = useDocument<{ releases: Known[] }>('/v1/releases');
  const assignments = useDocument<{ assignments: Assignment[] }>('/v1/assignments');
  const overview = useDocument<Overview>('/v1/overview');
  const [assigned, setAssigned] = useState<string | null>(null);
  useReloadOnNews(({ kind }) => kind === 'device', overview.reload, 2000);
  const shareOf = (id: string) => overview.data?.releases.find(({ release }) => release === id);
  return (
    <>
      <PageHead
        title="Releases"
        intro="A float model with its card, under a name and a version. It never changes."
        actions={
          <>
            <Link to="/releases/compare" class="button">
              Compare two
            </Link>
            <Link to="/rollouts/new" class="button primary">
              Roll one out
            </Link>
          </>
        }
      />
      <Await document={releases}>
        {({ releases: all }) =>
          all.length === 0 ? (
            <Empty>There is no release yet. Make one below, or with the command shown there.</Empty>
          ) : (
            <Table
              caption="Releases, newest first"
              rows={all}
              keyOf={({ id }) => id}
              columns={[
                { name: 'Release', cell: ({ id }) => id },
                {
                  name: 'Runs on',
                  cell: ({ id }) => {
                    const share = shareOf(id);
                    return share === undefined ? (
                      'no device'
                    ) : (
                      <>
                        <Link to={withQuery('/devices', { release: id })}>{countText(share.active, 'target')}</Link>
                        <Shares
                          parts={[
                            { name: 'confirmed', count: share.confirmed, tone: 'good' },
                            { name: 'proving itself', count: share.active - share.confirmed, tone: 'busy' },
                            { name: 'still to come', count: Math.max(0, share.wanted - share.active), tone: 'quiet' },
                          ]}
                        />
                      </>
                    );
                  },
                },
                { name: 'For', cell: ({ targetKinds }) => targetKinds?.join(', ') ?? 'any target' },
                { name: 'Task', cell: ({ card }) => card?.task ?? 'no card' },
                { name: 'Own budget', cell: ({ budget }) => budgetText(budget) },
                { name: 'Model', isNumber: true, cell: ({ model }) => bytesText(model.sizeBytes) },
                { name: 'Digest', cell: ({ model }) => <code title={model.sha256}>{digestText(model.sha256)}</code> },
                { name: 'Made', cell: ({ createdAt }) => <Time at={createdAt} /> },
                {
                  name: 'Assign',
                  cell: ({ id }) => (
                    <Button needs="operator" onClick={() => setAssigned(id)}>
                      Assign<span class="hidden"> {id}</span>
                    </Button>
                  ),
                },
              ]}
            />
          )
        }
      </Await>
      <NewRelease onMade={releases.reload} />
      <Section title="Assignments that hold">
        <Await document={assignments}>
          {({ assignments: all }) =>
            all.length === 0 ? (
              <Empty>None. Rollouts give devices releases of their own, beside these.</Empty>
            ) : (
              <Table
                caption="Assignments, newest first: the newest that names a device holds there"
                rows={[...all].reverse()}
                keyOf={({ number }) => number}
                columns={[
                  { name: 'Release', cell: ({ release }) => release },
                  { name: 'For', cell: ({ selector, target }) => `${selector}, target ${target}` },
                  {
                    name: 'By',
                    cell: ({ rollout }) =>
                      rollout === null ? 'somebody' : <Link to={`/rollouts/${rollout}`}>rollout {rollout}</Link>,
                  },
                  { name: 'Since', cell: ({ createdAt }) => <Time at={createdAt} /> },
                ]}
              />
            )
          }
        </Await>
      </Section>
      {assigned !== null && (
        <Assign
          release={assigned}
          onClose={() => setAssigned(null)}
          onDone={() => {
            assignments.reload();
            overview.reload();
          }}
        />
      )}
    </>
  );
}

function Assign({ release, onClose, onDone }: { release: string; onClose: () => void; onDone: () => void }) {
  const [selector, setSelector] = useState('');
  const [target, setTarget] = useState('host');
  return (
    <Confirm
      title={`Assign ${release}`}
      action="Assign"
      onClose={onClose}
      onYes={async () => {
        const { devices } = await send<{ devices: string[] }>('POST', '/v1/assignments', { selector, target, release });
        announce(`${release} is wanted on ${countText(devices.length, 'further device')} now.`);
        onDone();
      }}
    >
      <p>
        Every device that the selector names is told at once, and those that come later. To go in stages, with a way
        back, start a rollout instead.
      </p>
      <Field
        label="To the devices"
        value={selector}
        onInput={setSelector}
        isRequired
        hint="all, device=ID, group=NAME, LABEL=VALUE"
      />
      <Field
        label="Target"
        value={target}
        onInput={setTarget}
        isRequired
        hint="host, or the name of a microcontroller"
      />
    </Confirm>
  );
}

function NewRelease({ onMade }: { onMade: () => void }) {
  const [name, setName] = useState('');
  const [version, setVersion] = useState('');
  const [model, setModel] = useState<File | null>(null);
  const [card, setCard] = useState<File | null>(null);
  const [draft, setDraft] = useState(emptyDraft);
  const [share, setShare] = useState<number | null>(null);
  const { isBusy, error, run } = useAction();
  const why =
    crypto.subtle === undefined
      ? 'This browser digests files only over HTTPS or from this machine.'
      : model !== null && model.size > mostBrowserBytes
        ? `The model is larger than ${bytesText(mostBrowserBytes)}: a browser would hold it in memory.`
        : null;
  const command = `fleet release ${model?.name ?? 'model.onnx'} --name ${name || 'NAME'} --version ${version || 'VERSION'}`;
  const make = async () => {
    if (model === null) return;
    setShare(0);
    try {
      const sha256 = [...new Uint8Array(await crypto.subtle.digest('SHA-256', await model.arrayBuffer()))]
        .map((byte) => byte.toString(16).padStart(2, '0'))
        .join('');
      await upload(model, sha256, setShare);
      const budget = budgetOf(draft);
      const release = await send<Release>('POST', '/v1/releases', {
        id: `${name}@${version}`,
        model: { sha256 },
        card: card === null ? null : await parseCard(card),
        ...(Object.keys(budget).length === 0 ? {} : { budget }),
      });
      announce(`Release ${release.id} is made; no device has it yet.`);
      onMade();
    } finally {
      setShare(null);
    }
  };
  return (
    <Section title="New release">
      <form
        onSubmit={(event) => {
          event.preventDefault();
          void run(make);
        }}
      >
        <div class="grid-fields">
          <Field label="Name" value={name} onInput={setName} isRequired placeholder="detector" />
          <Field label="Version" value={version} onInput={setVersion} isRequired placeholder="1.2.0" />
          <FileField label="Model, float ONNX" accept=".onnx" isRequired onFile={setModel} />
          <FileField label="Card, JSON; without it, inferred" accept=".json" onFile={setCard} />
        </div>
        <details>
          <summary>Own budget, which holds where nothing else does</summary>
          <BudgetFields draft={draft} onChange={setDraft} />
        </details>
        {error !== null && <ErrorBox error={error} />}
        {share !== null && <Progress share={share} label="Upload of the model" />}
        <div class="actions">
          <Button type="submit" needs="operator" isBusy={isBusy} disabledBecause={why}>
            Upload and make it
          </Button>
        </div>
        {why !== null && <p class="note">{why}</p>}
        <p class="quiet-text">
          The same from a terminal: <code>{command}</code>
        </p>
      </form>
    </Section>
  );
}

async function parseCard(file: File): Promise<unknown> {
  try {
    return JSON.parse(await file.text());
  } catch (error) {
    throw new ApiError(
      0,
      'card/invalid',
      `the card is not JSON: ${(error as Error).message}`,
      'Choose the JSON file beside the model.',
    );
  }
}

function FileField({
  label,
  accept,
  isRequired = false,
  onFile,
}: {
  label: string;
  accept: string;
  isRequired?: boolean;
  onFile: (file: File | null) => void;
}) {
  return (
    <div class="field">
      <label>
        {label}
        <input
          type="file"
          accept={accept}
          required={isRequired}
          onChange={(event) => onFile(event.currentTarget.files?.[0] ?? null)}
        />
      </label>
    </div>
  );
}
