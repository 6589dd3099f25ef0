// Reading the data, making elements, and how numbers are written.

const $ = (id) => document.getElementById(id);

/** Returns a new element with a class and children; texts are never markup. */
function make(tag, className = '', ...children) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  element.append(...children);
  return element;
}

/** Returns a button that calls `act` when it is pressed. */
function makeButton(text, act) {
  const button = make('button', '', text);
  button.type = 'button';
  button.addEventListener('click', act);
  return button;
}

/** Returns the data of this page, which are compressed. */
async function loadData() {
  const text = atob($('data').textContent);
  const bytes = Uint8Array.from(text, (x) => x.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream('gzip'));
  return new Response(stream).json();
}

/** Returns a share as a percentage, with two digits after the point. */
function percent(share, digits = 2) {
  if (share === null || share === undefined || Number.isNaN(share)) return '–';
  return `${(100 * share).toFixed(digits)} %`;
}

/** Returns a name as readers write it. */
const pretty = (text) => text.replaceAll('<=', '≤');

/** Returns the first letter in upper case. */
const sentence = (text) => text[0].toUpperCase() + text.slice(1);

/** Returns a table of texts, the first column as headers of the rows. */
function makeTable(columns, rows) {
  // Words stand at the left, numbers at the right.
  const style = (x) => /^[("{[]?[a-z]/i.test(x) ? 'text' : '';
  const cells = (tag, values) => values.map((x) => make(tag, style(x), x));
  const head = make('tr', '', ...columns.map((x) => make('th', '', x)));
  for (const cell of head.children) cell.scope = 'col';
  const body = rows.map(([first, ...rest]) => {
    const title = make('th', '', first);
    title.scope = 'row';
    return make('tr', '', title, ...cells('td', rest));
  });
  return make('table', '', make('thead', '', head), make('tbody', '', ...body));
}

/** Fills a choice of cost metrics, and calls `act` when another is chosen. */
function offerMetrics(metrics, chosen, act) {
  for (const [name, {label}] of Object.entries(metrics)) {
    $('metric').append(new Option(label, name, false, name === chosen));
  }
  $('metric').addEventListener('change', () => act($('metric').value));
}

/**
 * Returns `act` without overlaps: a call while another runs is done after it.
 *
 * Of several calls that wait, only the last is done. Drawing a chart takes time,
 * and of two drawings at once the earlier could end last and stay.
 */
function oneAtATime(act) {
  let running = null, isWanted = false;
  const work = async () => {
    try {
      while (isWanted) {
        isWanted = false;
        await act();
      }
    } finally {
      running = null;
    }
  };
  return () => {
    isWanted = true;
    running ??= work();
    return running;
  };
}

/** Calls `act` with each change between light and dark. */
function onScheme(act) {
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', act);
}
