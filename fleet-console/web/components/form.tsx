/** Fields with their labels, and questions that must be answered. */
import type { ComponentChildren } from 'preact';
import { useEffect, useId, useRef, useState } from 'preact/hooks';
import { ApiError } from '../api.js';
import { Button, ErrorBox } from './basics.js';

/** A line of text, a number, or a password. */
export function Field({
  label,
  value,
  onInput,
  type = 'text',
  hint,
  placeholder,
  isRequired = false,
  suggestions,
  autocomplete = 'off',
}: {
  label: string;
  value: string;
  onInput: (value: string) => void;
  type?: 'text' | 'number' | 'password' | 'search';
  hint?: string;
  placeholder?: string;
  isRequired?: boolean;
  /** What is offered while typing. */
  suggestions?: readonly string[];
  autocomplete?: string;
}) {
  const id = useId();
  return (
    <div class="field">
      <label htmlFor={id}>{label}</label>
      <input
        id={id}
        type={type}
        value={value}
        placeholder={placeholder}
        required={isRequired}
        min={type === 'number' ? 0 : undefined}
        step={type === 'number' ? 'any' : undefined}
        list={suggestions === undefined ? undefined : `${id}-list`}
        autocomplete={autocomplete}
        spellcheck={false}
        aria-describedby={hint === undefined ? undefined : `${id}-hint`}
        onInput={(event) => onInput(event.currentTarget.value)}
      />
      {suggestions !== undefined && (
        <datalist id={`${id}-list`}>
          {suggestions.map((text) => (
            <option key={text} value={text} />
          ))}
        </datalist>
      )}
      {hint !== undefined && (
        <small id={`${id}-hint`} class="hint">
          {hint}
        </small>
      )}
    </div>
  );
}

/** One of a few. */
export function Choice({
  label,
  value,
  options,
  onChange,
}: {
  label: string;
  value: string;
  options: readonly (readonly [value: string, text: string])[];
  onChange: (value: string) => void;
}) {
  const id = useId();
  return (
    <div class="field">
      <label htmlFor={id}>{label}</label>
      <select id={id} value={value} onChange={(event) => onChange(event.currentTarget.value)}>
        {options.map(([option, text]) => (
          <option key={option} value={option}>
            {text}
          </option>
        ))}
      </select>
    </div>
  );
}

/** Yes or no. */
export function Check({ label, isOn, onChange }: { label: string; isOn: boolean; onChange: (isOn: boolean) => void }) {
  return (
    <label class="check">
      <input type="checkbox" checked={isOn} onChange={(event) => onChange(event.currentTarget.checked)} />
      {label}
    </label>
  );
}

/** A question before something is done: says what will happen, and does it on a yes. Errors are shown in it. */
export function Confirm({
  title,
  children,
  action,
  isDangerous = false,
  onYes,
  onClose,
}: {
  title: string;
  children: ComponentChildren;
  /** What the button says. */
  action: string;
  isDangerous?: boolean;
  onYes: () => Promise<unknown>;
  onClose: () => void;
}) {
  const dialog = useRef<HTMLDialogElement>(null);
  const id = useId();
  const { isBusy, error, run } = useAction();
  useEffect(() => {
    const element = dialog.current!;
    element.showModal();
    // Closing gives the focus back to where it was, which leaving the page alone does not.
    return () => element.close();
  }, []);
  return (
    <dialog ref={dialog} aria-labelledby={id} onClose={onClose} onCancel={onClose}>
      <form
        onSubmit={(event) => {
          event.preventDefault();
          void run(async () => {
            await onYes();
            onClose();
          });
        }}
      >
        <h2 id={id}>{title}</h2>
        {children}
        {error !== null && <ErrorBox error={error} />}
        <div class="actions">
          <Button onClick={onClose}>Cancel</Button>
          <Button type="submit" kind={isDangerous ? 'danger' : 'primary'} isBusy={isBusy}>
            {action}
          </Button>
        </div>
      </form>
    </dialog>
  );
}

/** Something that is done on a click: whether it goes on, and why it failed. */
export function useAction(): {
  isBusy: boolean;
  error: ApiError | null;
  run: (work: () => Promise<unknown>) => Promise<void>;
} {
  const [isBusy, setBusy] = useState(false);
  const [error, setError] = useState<ApiError | null>(null);
  const run = async (work: () => Promise<unknown>) => {
    setBusy(true);
    setError(null);
    try {
      await work();
    } catch (caught) {
      if (!(caught instanceof ApiError)) throw caught;
      setError(caught);
    } finally {
      setBusy(false);
    }
  };
  return { isBusy, error, run };
}
