// An application on the device: asks for one answer after the other, and never notices that the model behind them changes.
//
//   node scripts/example-application.mjs STATE/quantd.sock image.jpg
import { readFileSync } from 'node:fs';
import { request } from 'node:http';

const [socketPath, image] = process.argv.slice(2);
const frame = readFileSync(image);
const ask = () => new Promise((resolve, reject) => {
  const asked = request({ socketPath, method: 'POST', path: '/v1/infer', headers: { 'content-type': 'image/jpeg' } }, async (response) => {
    let text = '';
    for await (const chunk of response) text += chunk;
    response.statusCode === 200 ? resolve(JSON.parse(text)) : reject(new Error(text));
  });
  asked.on('error', reject).end(frame);
});
for (let last = ''; ; ) {
  const { artifact, outputs, latencyMs } = await ask();
  if (artifact !== last) console.log(`model ${artifact.slice(0, 12)}: ${latencyMs.toFixed(2)} ms`, Object.values(outputs)[0].data);
  last = artifact;
}
