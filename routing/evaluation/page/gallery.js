// Several runs side by side.

/** Returns the anchors of all runs, each once; with names where they differ. */
function anchorsOfRuns(runs) {
  const found = new Map();
  for (const [name, {anchors}] of Object.entries(runs)) {
    for (const anchor of anchorsOf(anchors)) {
      const key = [anchor.label, anchor.cost, anchor.accuracy].join('|');
      found.set(key, {...anchor, runs: [...(found.get(key)?.runs ?? []), name]});
    }
  }
  const all = [...found.values()];
  const isOne = (label) => all.filter((x) => x.label === label).length === 1;
  // Where runs differ, a pointer is told whose it is; labels would overlap.
  return all.map((x) => isOne(x.label) ? x : {...x, text: '', label: `${x.label}, ${x.runs.join(', ')}`});
}

/** Shows one method of all runs, in one metric. */
async function showRuns(data, chart, method, metric) {
  const {label, columns, runs} = data.metrics[metric];
  const having = Object.entries(runs).filter(([, run]) => method in run.curves);
  $('figures').replaceChildren(
      makeTable(columns, having.map(([name, run]) => [name, ...run.rows[method]])));
  const curves = Object.fromEntries(having.map(([name, run]) => [name, run.curves[method]]));
  await chart.show(label, curves, anchorsOfRuns(runs));
}

/** Says which runs there are, and whether they may be compared. */
function introduceRuns(data) {
  const names = Object.keys(data.runs);
  const links = names.flatMap((name, i) => {
    const page = data.pages[name];
    const link = page ? make('a', '', name) : name;
    if (page) link.href = page;
    return i ? [', ', link] : [link];
  });
  const sizes = [...new Set(Object.values(data.num_problems))].map((x) => x.toLocaleString('en'));
  const tested = data.same_test ?
      ` All were tested on the same ${sizes[0]} problems.` :
      ` They were not tested on the same records, as far as their files say (${sizes.join(', ')} problems): differences between runs are then differences between problems, too.`;
  $('intro').replaceChildren(`${names.length} runs: `, ...links, '.', tested);
}

/** Returns the table of settings in which the runs differ. */
function settingsTable(data) {
  const table = makeTable(['setting', ...Object.keys(data.runs)], data.settings);
  table.className = 'words';
  return table;
}

async function beginGallery() {
  const data = await loadData();
  introduceRuns(data);
  const chart = new FrontierChart($('frontier-chart'), $('legend'), data.runs, $('bands'));
  for (const [name, label] of Object.entries(data.methods)) $('method').append(new Option(label, name));
  const show = oneAtATime(() => showRuns(data, chart, $('method').value, $('metric').value));
  $('method').addEventListener('change', show);
  offerMetrics(data.metrics, data.metric, show);
  $('points').replaceChildren(makeTable(data.point_columns, data.points.map((row) => row.map(pretty))));
  const same = make('p', 'soft', 'All settings are the same.');
  $('settings').replaceChildren(data.settings.length ?
      settingsTable(data) : same);
  onScheme(show);
  await show();
  document.body.dataset.ready = 'yes';
}

beginGallery();
