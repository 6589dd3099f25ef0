// Puts the report together.

/** Says in one paragraph what was done, and in one line with what. */
function introduce(data) {
  $('title').textContent = data.title;
  document.title = `${data.title}: stepwise model routing`;
  const {anchors} = data.metrics[data.metric];
  const [small, large] = data.routes ? [data.routes[0], data.routes.at(-1)] : ['small', 'large'];
  const larger = data.routes?.length > 2 ? 'a larger model' : `the ${large} model`;
  const does = {
    escalate: `a learned policy decides whether ${larger} takes the rest over`,
    redraft: `a learned policy decides whether ${larger} rewrites the step`,
    switch: 'a learned policy decides which model writes the next one',
  }[data.protocol?.name] ?? `a learned policy decides whether ${larger} takes over`;
  $('intro').textContent = `The ${small} model writes an answer step by step. At each step ${does}. ` +
      `Alone, the ${small} model is right on ${percent(anchors.small_accuracy, 1)} of the problems, at ${percent(anchors.small_cost, 1)} of the cost of the ${large} model, ` +
      `which is right on ${percent(anchors.large_accuracy, 1)}.`;
  const counts = ['train', 'select', 'prove', 'test'].filter((x) => x in data.num_problems)
      .map((x) => `${data.num_problems[x].toLocaleString('en')} ${x}`);
  const facts = [`Problems: ${counts.join(', ')}`, `training seeds: ${data.seeds.join(', ')}`];
  if (data.settings) facts.push(`task: ${data.settings.task}`, `protocol: ${data.protocol.name}, ${data.protocol.view}`);
  $('facts').textContent = `${facts.join('. ').replaceAll('. ', '; ')}.`;
}

/** Shows the figures of a metric in a chart and in a table. */
async function showMetric(data, chart, metric) {
  const {label, curves, anchors, columns, rows, left_out: leftOut} = data.metrics[metric];
  const notes = leftOut.map((x) => make('p', 'soft', x));
  $('figures').replaceChildren(makeTable(columns, rows), ...notes);
  await chart.show(label, curves, anchorsOf(anchors));
}

/** Shows how accuracy, cost and multiplier moved in training. */
async function showTraining(data) {
  const {training} = data;
  const nothing = !training?.columns.step.length;
  $('training').hidden = nothing;
  if (nothing) return;
  const {columns, policies, form} = training;
  const colours = policies.map((_, i) => visible(PALETTE[i % PALETTE.length]));
  $('training-note').textContent = `One policy for each ${form === 'budget' ? 'budget' : 'level of risk'}; one line for each training seed. ` +
      'Solid: on the batches of training. Dashed: on the problems of select, which stop training early. ' +
      'The multiplier is the price that training puts on the constraint.';
  $('training-legend').replaceChildren(...policies.map((name, i) =>
      make('span', '', swatch(PALETTE[i % PALETTE.length]), name)));
  const rows = columns.step.map((step, i) => ({
    step, seed: columns.seed[i], policy: policies[columns.policy[i]],
    values: Object.fromEntries(Object.keys(columns).map((x) => [x, columns[x][i]])),
  }));
  const of = (name, split, key) => rows.filter((x) => x.values[key] !== null)
      .map(({step, seed, policy, values}) => ({step, seed, policy, split, [name]: values[key]}));
  const charts = [
    ['accuracy', '~%', [...of('accuracy', 'training', 'accuracy'), ...of('accuracy', 'select', 'accuracy on select')]],
    ['cost', '~%', [...of('cost', 'training', 'cost'), ...of('cost', 'select', 'cost on select')]],
    ['multiplier', '', of('multiplier', 'training', 'multiplier')],
  ].filter(([, , values]) => values.length);
  $('training-charts').replaceChildren();
  for (const [name, format, values] of charts) {
    const element = make('div', 'chart');
    element.setAttribute('role', 'img');
    element.setAttribute('aria-label', `${sentence(name)} by training step, one line for each policy`);
    $('training-charts').append(make('div', 'card', element));
    await draw(element, {
      height: 220, title: name, data: {values},
      mark: {type: 'line', tooltip: true, strokeWidth: 1.6, point: {size: 12}},
      encoding: {
        x: {field: 'step', type: 'quantitative', title: 'gradient step', axis: {grid: false, tickCount: 5}},
        y: {field: name, type: 'quantitative', title: null, scale: {zero: false}, axis: {format, tickCount: 5}},
        color: {field: 'policy', type: 'nominal', legend: null, scale: {domain: policies, range: colours}},
        strokeDash: {field: 'split', type: 'nominal', legend: null, scale: {domain: ['training', 'select'], range: [[1, 0], [5, 3]]}},
        detail: {field: 'seed'},
      },
    });
  }
}

/** Shows everything. */
async function begin() {
  const data = await loadData();
  introduce(data);
  const chart = new FrontierChart($('frontier-chart'), $('legend'), data.methods, $('bands'));
  let reader = null;
  const dial = new Dial(data, (turned) => {
    const {figures} = turned.current;
    const names = turned.points.map((x) => pretty(x.name)).join(' and ');
    chart.point({
      label: names || 'this threshold',
      cost: turned.cost, accuracy: figures.accuracy[turned.position],
    });
    const where = names ? `At the operating point ${names}` : 'At the threshold below';
    $('now').textContent = `${where} the router is right on ${percent(figures.accuracy[turned.position], 1)} of the problems, for ${percent(turned.cost, 1)} of the cost.`;
    reader?.follow();
  });
  if (data.answers && data.dials.length) {
    reader = new Reader(new Answers(data), dial);
    reader.begin();
  } else {
    $('answers-body').hidden = true;
    $('answers-note').textContent = `Not shown: ${data.why_not || 'the records cannot evaluate any threshold.'}`;
  }
  const showCurves = oneAtATime(() => showMetric(data, chart, $('metric').value));
  const showCourse = oneAtATime(() => showTraining(data));
  offerMetrics(data.metrics, data.metric, (metric) => {
    dial.setMetric(metric);
    showCurves();
  });
  const showCharts = async () => {
    await showCurves();
    await showCourse();
  };
  onScheme(showCharts);
  await showCharts();
  document.body.dataset.ready = 'yes';
}

begin();
