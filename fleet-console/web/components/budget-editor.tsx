/** A budget as fields, with their units. */
import type { Budget } from '../../../configs/contracts/plan.js';
import { Choice, Field } from './form.js';

/** What is typed; empty: no ceiling. */
export interface BudgetDraft {
  readonly latency: string;
  readonly latencyUnit: 'ms' | 'ratio';
  readonly sizeKb: string;
  readonly ramKb: string;
  readonly flashKb: string;
  readonly energyMj: string;
  readonly dropPercent: string;
  readonly agreementPercent: string;
}

/** Nothing typed. */
export const emptyDraft: BudgetDraft = {
  latency: '',
  latencyUnit: 'ms',
  sizeKb: '',
  ramKb: '',
  flashKb: '',
  energyMj: '',
  dropPercent: '',
  agreementPercent: '',
};

/** The draft that says the same as a budget. What has no field is left out. */
export function draftOf(budget: Budget): BudgetDraft {
  const text = (value: number | undefined, factor = 1) =>
    value === undefined ? '' : String(Number((value * factor).toPrecision(9)));
  return {
    latency: text(budget.latencyMs ?? budget.latencyRatio),
    latencyUnit: budget.latencyRatio === undefined ? 'ms' : 'ratio',
    sizeKb: text(budget.sizeBytes, 1 / 1024),
    ramKb: text(budget.ramBytes, 1 / 1024),
    flashKb: text(budget.flashBytes, 1 / 1024),
    energyMj: text(budget.energyMj),
    dropPercent: text(budget.drop, 100),
    agreementPercent: text(budget.agreement, 100),
  };
}

/** The budget of a draft, in the units of the API. */
export function budgetOf(draft: BudgetDraft): Budget {
  const number = (text: string) => (text.trim() === '' ? undefined : Number(text));
  const bytes = (text: string) => (text.trim() === '' ? undefined : Math.round(Number(text) * 1024));
  const fraction = (text: string) => (text.trim() === '' ? undefined : Number((Number(text) / 100).toPrecision(9)));
  const latency = number(draft.latency);
  const budget: Record<string, number | undefined> = {
    latencyMs: draft.latencyUnit === 'ms' ? latency : undefined,
    latencyRatio: draft.latencyUnit === 'ratio' ? latency : undefined,
    sizeBytes: bytes(draft.sizeKb),
    ramBytes: bytes(draft.ramKb),
    flashBytes: bytes(draft.flashKb),
    energyMj: number(draft.energyMj),
    drop: fraction(draft.dropPercent),
    agreement: fraction(draft.agreementPercent),
  };
  return Object.fromEntries(Object.entries(budget).filter(([, value]) => value !== undefined)) as Budget;
}

/** The fields. */
export function BudgetFields({ draft, onChange }: { draft: BudgetDraft; onChange: (draft: BudgetDraft) => void }) {
  const set = (name: keyof BudgetDraft) => (value: string) => onChange({ ...draft, [name]: value });
  const number = (name: keyof BudgetDraft, label: string) => (
    <Field label={label} type="number" value={draft[name]} onInput={set(name)} />
  );
  return (
    <fieldset>
      <legend>Ceilings and floors; what is left empty has none</legend>
      <div class="grid-fields">
        {number('latency', 'Latency at most')}
        <Choice
          label="Latency is in"
          value={draft.latencyUnit}
          options={[
            ['ms', 'milliseconds'],
            ['ratio', 'times uniform int8 on the same target'],
          ]}
          onChange={set('latencyUnit')}
        />
        {number('sizeKb', 'Size at most, KB')}
        {number('ramKb', 'RAM at most, KB')}
        {number('flashKb', 'Flash at most, KB')}
        {number('energyMj', 'Energy at most, mJ')}
        {number('dropPercent', 'Loss of top-1 at most, %')}
        {number('agreementPercent', 'Agreement with float at least, %')}
      </div>
    </fieldset>
  );
}
