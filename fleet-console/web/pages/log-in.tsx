/** Where somebody says who they are. */
import { useEffect, useRef, useState } from 'preact/hooks';
import { send } from '../api.js';
import { Button, ErrorBox } from '../components/basics.js';
import { Field, useAction } from '../components/form.js';

/** Name and password; `onIn` is called when the console has taken them. */
export function LogIn({ onIn }: { onIn: () => void }) {
  const [name, setName] = useState('');
  const [password, setPassword] = useState('');
  const { isBusy, error, run } = useAction();
  const heading = useRef<HTMLHeadingElement>(null);
  useEffect(() => {
    document.title = 'Log in – Quantd fleet';
    heading.current?.focus();
  }, []);
  return (
    <main>
      <form
        class="login"
        onSubmit={(event) => {
          event.preventDefault();
          void run(async () => {
            await send('POST', '/v1/session', { name, password });
            onIn();
          });
        }}
      >
        <h1 ref={heading} tabIndex={-1}>
          Log in to the fleet
        </h1>
        <Field label="Name" value={name} onInput={setName} isRequired autocomplete="username" />
        <Field
          label="Password"
          type="password"
          value={password}
          onInput={setPassword}
          isRequired
          autocomplete="current-password"
        />
        {error !== null && <ErrorBox error={error} />}
        <Button type="submit" kind="primary" isBusy={isBusy}>
          Log in
        </Button>
      </form>
    </main>
  );
}
