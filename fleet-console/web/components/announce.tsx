/** What is said to those who do not see the page change. */
import { useEffect, useState } from 'preact/hooks';

let say: (text: string) => void = () => {};

/** Says something that has happened, and shows it for a moment. */
export function announce(text: string): void {
  say(text);
}

/** Where it is said; once on the page. */
export function Announcer() {
  const [text, setText] = useState('');
  useEffect(() => {
    say = setText;
    return () => {
      say = () => {};
    };
  }, []);
  useEffect(() => {
    if (text === '') return undefined;
    const timer = setTimeout(() => setText(''), 8000);
    return () => clearTimeout(timer);
  }, [text]);
  return (
    <div class={text === '' ? 'hidden' : 'announcement'} role="status" aria-live="polite">
      {text}
    </div>
  );
}
