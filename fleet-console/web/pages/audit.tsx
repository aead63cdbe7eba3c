/** Who did what, in a chain that shows whether anything was changed afterwards. */
import { useState } from 'preact/hooks';
import type { AuditPage, AuditVerdict } from '../../../configs/contracts/people.js';
import { get, useDocument, withQuery } from '../api.js';
import { Await, Button, Empty, ErrorBox, PageHead, Time } from '../components/basics.js';
import { Field, useAction } from '../components/form.js';
import { Pager, Table } from '../components/table.js';
import { digestText } from '../format.js';
import { useQuery } from '../router.js';

const pageSize = 50;

/** The page. */
export function Audit() {
  const [query, setQuery] = useQuery();
  const filters = ['actor', 'action', 'subject'] as const;
  const values = Object.fromEntries(filters.map((name) => [name, query.get(name)]));
  const page = useDocument<AuditPage>(
    withQuery('/v1/audit', { ...values, before: query.get('before'), limit: pageSize }),
  );
  return (
    <>
      <PageHead
        title="Audit"
        intro="Everything that was changed, by whom; each entry holds the digest of the one before it."
        actions={<Verify />}
      />
      <div class="filters">
        {filters.map((name) => (
          <Field
            key={name}
            label={{ actor: 'By', action: 'Action', subject: 'Subject' }[name]}
            type="search"
            value={query.get(name) ?? ''}
            onInput={(value) => setQuery({ [name]: value, before: '' })}
          />
        ))}
      </div>
      <Await document={page} absent={<Empty>This console keeps no audit.</Empty>}>
        {({ entries, next }) =>
          entries.length === 0 ? (
            <Empty>
              {Object.values(values).some((value) => value !== null)
                ? 'Nothing fits.'
                : 'Nothing has been changed yet.'}
            </Empty>
          ) : (
            <>
              <Table
                caption="Changes, newest first"
                rows={entries}
                keyOf={({ number }) => number}
                columns={[
                  { name: 'Number', cell: ({ number }) => number },
                  { name: 'When', cell: ({ time }) => <Time at={time} /> },
                  {
                    name: 'By',
                    cell: ({ actor, role }) => (
                      <>
                        {actor}
                        <small>{role}</small>
                      </>
                    ),
                  },
                  { name: 'Action', cell: ({ action }) => action },
                  {
                    name: 'Subject',
                    cell: ({ subject }) =>
                      /^[0-9a-f]{64}$/.test(subject) ? <code title={subject}>{digestText(subject)}</code> : subject,
                  },
                  { name: 'Details', cell: ({ details }) => <Details of={details} /> },
                  { name: 'Digest', cell: ({ hash }) => <code title={hash}>{digestText(hash)}</code> },
                ]}
              />
              <Pager
                total={null}
                shown={entries.length}
                next={next}
                hasBefore={query.get('before') !== null}
                onNext={() => setQuery({ before: String(next) })}
                onFirst={() => setQuery({ before: '' })}
              />
            </>
          )
        }
      </Await>
    </>
  );
}

function Details({ of }: { of: unknown }) {
  if (of === null || of === undefined) return <>–</>;
  const text = JSON.stringify(of);
  if (text === '{}') return <>–</>;
  return text.length <= 80 ? (
    <code>{text}</code>
  ) : (
    <details>
      <summary>Show</summary>
      <pre>
        <code>{JSON.stringify(of, null, 2)}</code>
      </pre>
    </details>
  );
}

function Verify() {
  const [answer, setAnswer] = useState<AuditVerdict | null>(null);
  const { isBusy, error, run } = useAction();
  return (
    <>
      <Button
        isBusy={isBusy}
        onClick={() => void run(async () => setAnswer(await get<AuditVerdict>('/v1/audit/verify')))}
      >
        Verify the chain
      </Button>
      {error !== null && error.status === 404 ? (
        <span role="status">This console keeps no audit.</span>
      ) : (
        error !== null && <ErrorBox error={error} />
      )}
      {answer !== null && (
        <p role="status" class={answer.isIntact ? 'note' : 'note bad'}>
          {verdictText(answer)}
        </p>
      )}
    </>
  );
}

function verdictText({ isIntact, entries, head, firstBroken }: AuditVerdict): string {
  if (!isIntact) return `Entry ${firstBroken} was changed, or one before it is missing.`;
  if (head === null) return 'The audit is empty.';
  return `All ${entries} entries are as they were written; the newest, ${head.number}, has ${digestText(head.hash)}.`;
}
