// The threshold slider: a dial is a policy with its thresholds.

/** Turns dials and tells `act` where they stand. */
class Dial {
  constructor(data, act) {
    Object.assign(this, {data, act});
    this.metric = data.metric;
    $('dial-card').hidden = !data.dials.length;
    if (!data.dials.length) return;
    data.dials.forEach((dial, i) => $('policy').append(new Option(this.nameOf(dial), i)));
    $('policy-row').hidden = data.dials.length < 2;
    $('policy').addEventListener('change', () => this.choose(Number($('policy').value)));
    $('dial').addEventListener('input', () => this.turn(this.last - Number($('dial').value)));
    $('of-test').textContent = `on ${data.num_problems.test.toLocaleString('en')} test problems, unseen [95 %]`;
    $('of-seed').hidden = data.seeds.length < 2;
    $('of-seed').textContent = `The policies of training seed ${data.seeds[0]}; the curves are means over the seeds.`;
    this.offerPoints();
    $('of-a-choice').textContent = data.of_a_choice;
    $('refused-card').hidden = !data.refused.length;
    $('refused').replaceChildren(...data.refused.map((x) => make('li', 'soft', pretty(x))));
    const first = data.points.find((x) => x.is_promised && this.placeOf(x.name)) ?? data.points.find((x) => this.placeOf(x.name));
    if (first) this.goTo(first.name);
    else this.choose(0, Math.floor(data.dials[0].thresholds.length / 2));
  }

  /** The words for a dial: the level that its policy was trained for. */
  nameOf(dial) {
    const trained = this.data.training?.policies[dial.policy] ?? '';
    const isJoint = Array.isArray(dial.thresholds[0]);
    return `${dial.policy + 1}: trained for ${trained}${isJoint ? ', one threshold per decision' : ''}`;
  }

  get current() { return this.data.dials[this.index]; }
  get last() { return this.current.thresholds.length - 1; }

  /** The operating points at this position, the one that was asked for first. */
  get points() {
    const names = this.current.points[this.position] ?? [];
    const found = this.data.points.filter((x) => names.includes(x.name));
    return found.sort((a, b) => (b.name === this.asked) - (a.name === this.asked));
  }

  /** The threshold of a decision as a number. */
  threshold(depth = 0) {
    const found = this.current.thresholds[this.position];
    const text = Array.isArray(found) ? found[depth] : found;
    return {inf: Infinity, '-inf': -Infinity}[text] ?? Number(text);
  }

  /** Returns [dial, position] of a named point. */
  placeOf(name) {
    for (const [i, dial] of this.data.dials.entries()) {
      for (const [position, names] of Object.entries(dial.points)) {
        if (names.includes(name)) return [i, Number(position)];
      }
    }
    return null;
  }

  /** Lists the named points, cheapest first. */
  offerPoints() {
    $('points').replaceChildren(...this.data.points.map(({name}) => {
      const button = makeButton(pretty(name), () => this.goTo(name));
      button.disabled = !this.placeOf(name);
      button.dataset.point = name;
      return button;
    }));
  }

  goTo(name) {
    const [index, position] = this.placeOf(name);
    this.asked = name;
    this.choose(index, position);
  }

  /** Changes to another policy, near the cost of before. */
  choose(index, position) {
    const before = this.index === undefined ? .5 : this.cost;
    this.index = index;
    $('policy').value = index;
    $('dial').min = 0;
    $('dial').max = this.last;
    if (position === undefined) {
      const costs = this.current.figures.cost[this.metric];
      const off = costs.map((x) => Math.abs(x - before));
      position = off.indexOf(Math.min(...off));
    }
    this.turn(position);
  }

  get cost() { return this.current.figures.cost[this.metric][this.position]; }

  turn(position) {
    this.position = position;
    $('dial').value = this.last - position;
    this.show();
    this.act(this);
  }

  setMetric(metric) {
    this.metric = metric;
    if (!this.data.dials.length) return;
    this.show();
    this.act(this);
  }

  /** Shows the numbers at this position, and what is promised there. */
  show() {
    const {figures} = this.current;
    const at = (name) => figures[name][this.position];
    const {points} = this;
    const [point] = points;
    const measured = point?.measured ?? {};
    $('of-calibration').textContent = point ? `in calibration, ${point.n?.toLocaleString('en') ?? '–'} problems` : 'in calibration';
    const inMetric = this.metric === this.data.metric;
    const rows = [
      ['accuracy', at('accuracy'), [at('accuracy low'), at('accuracy high')], measured.accuracy],
      ['cost', this.cost, null, inMetric ? measured.cost : undefined],
      ['relative loss', at('loss'), [at('loss low'), at('loss high')], measured.loss],
      ['gain', at('gain'), null, measured.gain],
    ];
    $('numbers').replaceChildren(...rows.map(([name, value, interval, before]) => {
      const title = make('th', '', name);
      title.scope = 'row';
      const cell = make('td', '', make('span', 'value', percent(value)));
      if (interval) cell.append(make('small', '', `[${percent(interval[0], 1)}, ${percent(interval[1], 1)}]`));
      if (name === 'cost') cell.append(make('small', '', 'of the large model alone'));
      const row = make('tr', '', title, cell, make('td', '', percent(before)));
      row.dataset.name = name;
      return row;
    }));
    const kappa = this.threshold();
    const words = kappa === Infinity ? 'no score reaches it' : kappa === -Infinity ? 'every score reaches it' : kappa.toFixed(4);
    $('threshold').textContent = Array.isArray(this.current.thresholds[0]) ? 'one per decision' : words;
    const ends = this.position === this.last ? 'The small model writes everything.' : this.position ? '' : 'A larger model writes from the first step.';
    $('dial').setAttribute('aria-valuetext', `${words}; accuracy ${percent(at('accuracy'), 1)}, cost ${percent(this.cost, 1)}`);
    const title = (name, isPromised) => make('p', 'row', make('strong', '', name), make(
        'span', `tag ${isPromised ? 'good' : 'soft'}`, isPromised ? 'promised' : 'nothing is promised'));
    const said = points.flatMap((x) => [
      title(pretty(x.name), x.is_promised), make('p', 'soft', `${sentence(pretty(x.words))}.`)]);
    const none = `${ends} This threshold was not tested in calibration.`.trim();
    $('promise').replaceChildren(...said.length ? said : [title('Between the named points', false), make('p', 'soft', none)]);
    for (const button of $('points').children) {
      button.setAttribute('aria-pressed', points.some((x) => x.name === button.dataset.point));
    }
  }
}
