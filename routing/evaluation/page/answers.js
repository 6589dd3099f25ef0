// Single answers: which parts a router would use at the dial's position.

const NONE = -1;
const COST_UNIT = 1e-4;
const SHARE_UNIT = 1e-3;
const PAGE_SIZE = 40;
const FILTERS = {
  all: ['all', 'Every problem'],
  saved: ['saved', 'Right as the large model alone is, at a lower cost'],
  lost: ['lost', 'Wrong where the large model alone is right'],
  gained: ['gained', 'Right where the large model alone is wrong'],
  wrong: ['both wrong', 'Wrong, as the large model alone is'],
  dear: ['right, not cheaper', 'Right as the large model alone is, and no cheaper'],
  unknown: ['not recorded', 'No recorded answer follows the router at this threshold'],
};

/** The answers of all problems, and which one the router gives. */
class Answers {
  constructor(data) {
    const {answers} = data;
    Object.assign(this, answers, {data, routes: data.routes, texts: answers.texts});
    this.size = this.problem.id.length;
    const group = (columns) => {
      const rows = Array.from({length: this.size}, () => []);
      columns.problem.forEach((n, row) => rows[n].push(row));
      return rows;
    };
    this.ends = group(this.end);
    this.numParts = this.part.after.length;
    this.given = new Array(this.size).fill(NONE);
  }

  /** Finds, for a dial, the positions at which each answer is given. */
  setDial(index, length) {
    const {rank, route} = this.dials[index];
    this.dial = this.dials[index];
    const low = new Int32Array(this.numParts), high = new Int32Array(this.numParts);
    // A part comes after the part that it continues. At a decision the larger
    // route is taken below the decision's rank, the small model from there on.
    for (let part = 0; part < this.numParts; part += 1) {
      const before = this.part.after[part];
      low[part] = before === NONE ? 0 : low[before];
      high[part] = before === NONE ? length : high[before];
      const decision = this.part.decision[part];
      if (decision === NONE) continue;
      if (this.part.route[part] === 0) low[part] = Math.max(low[part], rank[decision]);
      else if (this.part.route[part] === route[decision]) high[part] = Math.min(high[part], rank[decision]);
      else high[part] = 0;
    }
    Object.assign(this, {low, high});
  }

  /** Finds the answer to each problem at a position of the dial. */
  setPosition(position) {
    this.position = position;
    for (let n = 0; n < this.size; n += 1) {
      const found = this.ends[n].find((end) => {
        const part = this.end.part[end];
        return this.low[part] <= position && position < this.high[part];
      });
      this.given[n] = found ?? NONE;
    }
  }

  /** The parts of an answer, from the first to the last. */
  parts(end) {
    const found = [];
    for (let part = this.end.part[end]; part !== NONE; part = this.part.after[part]) found.push(part);
    return found.reverse();
  }

  /** All that is written of a problem: the question, both answers, every step. */
  wordsOf(n) {
    const {question, answer, large} = this.problem;
    const found = new Set([question[n], answer[n], large[n]]), seen = new Set();
    for (const end of this.ends[n]) {
      // Answers that begin alike share their first parts.
      for (let part = this.end.part[end]; part !== NONE && !seen.has(part); part = this.part.after[part]) {
        seen.add(part);
        found.add(this.part.text[part]);
        const decision = this.part.decision[part];
        if (decision !== NONE) found.add(this.decision.draft[decision]);
      }
    }
    found.delete(NONE);
    return [...found].map((text) => this.texts[text]);
  }

  cost(end, metric) { return this.end[`cost ${metric}`][end] * COST_UNIT; }
  right(end) { return this.end.right[end] * SHARE_UNIT; }
  largeRight(n) { return this.problem.large_right[n] * SHARE_UNIT; }

  /** In which of the filters a problem is. */
  kind(n, metric) {
    const end = this.given[n];
    if (end === NONE) return 'unknown';
    const [ours, theirs] = [this.right(end), this.largeRight(n)];
    if (ours < theirs) return 'lost';
    if (ours > theirs) return 'gained';
    if (!ours) return 'wrong';
    return this.end[`cost ${metric}`][end] * COST_UNIT < 1 ? 'saved' : 'dear';
  }

  /** Whether a decision calls a larger model at this position. */
  isLarger(decision) { return this.position < this.dial.rank[decision]; }

  /** Words for where an answer was handed over. */
  nameOf(end) {
    const parts = this.parts(end);
    const larger = parts.flatMap((part, i) => this.part.route[part] ? [i] : []);
    if (!larger.length) return 'the small model alone';
    if (this.data.protocol.name === 'escalate') return `hand-over at step ${larger[0] + 1}`;
    return `larger model at step ${larger.map((i) => i + 1).join(', ')}`;
  }
}

/** The list of problems and the one that is read. */
class Reader {
  constructor(answers, dial) {
    Object.assign(this, {answers, dial, filter: 'all', query: '', current: 0, limit: PAGE_SIZE, beside: null});
    const note = [];
    const {total} = answers;
    if (answers.size < total) note.push(`${answers.is_drawn ? 'A random sample of' : 'The first'} ${answers.size.toLocaleString('en')} of ${total.toLocaleString('en')} test problems; the figures above are of all.`);
    if (!answers.is_graded_once) note.push('Answers were drawn several times: texts are the first ones, and costs are means.');
    if (answers.data.settings.source !== 'known') note.push('Recorded answers of a random policy: not every way through a problem is known.');
    $('answers-note').textContent = note.join(' ');
    this.lower = answers.problem.id.map((id, n) => [id, ...answers.wordsOf(n)].join('\n').toLowerCase());
    for (const [name, [label, title]] of Object.entries(FILTERS)) {
      const button = makeButton('', () => { this.filter = name; this.limit = PAGE_SIZE; this.show(); });
      button.dataset.filter = name;
      button.title = title;
      button.append(label, ' ', make('span', 'count'));
      $('filters').append(button);
    }
    $('search').addEventListener('input', () => { this.query = $('search').value.toLowerCase().trim(); this.limit = PAGE_SIZE; this.show(); });
    $('more').addEventListener('click', () => {
      this.limit += PAGE_SIZE;
      this.show();
      $('list').children[this.limit - PAGE_SIZE]?.firstChild.focus();
    });
    $('list').addEventListener('keydown', (event) => {
      const step = {ArrowDown: 'nextElementSibling', ArrowUp: 'previousElementSibling'}[event.key];
      const next = step && event.target.closest('li')?.[step];
      if (!next) return;
      event.preventDefault();
      next.firstChild.focus();
      next.firstChild.click();
    });
  }

  /** Reads the first answer that shows what a router is for. */
  begin() {
    const {answers} = this;
    this.follow();
    const shows = (end, n) => this.kinds[n] === 'saved' && answers.parts(end).some((part) => answers.part.route[part]);
    this.current = Math.max(answers.given.findIndex((end, n) => end !== NONE && shows(end, n)), 0);
    this.limit = Math.max(this.limit, this.current + 1);
    this.show();
    const item = $('list').children[this.current];
    if (item) $('list').scrollTop = Math.max(item.offsetTop - $('list').offsetTop - 160, 0);
  }

  /** Follows the dial. */
  follow() {
    this.answers.setDial(this.dial.index, this.dial.last + 1);
    this.answers.setPosition(this.dial.position);
    this.beside = null;
    this.show();
  }

  /** Shows the filters with their counts, and the problems that pass. */
  show() {
    const {answers} = this;
    const kinds = answers.given.map((_, n) => answers.kind(n, this.dial.metric));
    const counts = {all: kinds.length};
    for (const kind of kinds) counts[kind] = (counts[kind] ?? 0) + 1;
    for (const button of $('filters').children) {
      const name = button.dataset.filter;
      button.lastChild.textContent = (counts[name] ?? 0).toLocaleString('en');
      button.setAttribute('aria-pressed', this.filter === name);
      button.hidden = ['dear', 'unknown'].includes(name) && !counts[name] && this.filter !== name;
    }
    this.found = kinds.flatMap((kind, n) =>
        (this.filter === 'all' || kind === this.filter) && this.lower[n].includes(this.query) ? [n] : []);
    this.kinds = kinds;
    if (!this.found.includes(this.current)) this.current = this.found[0] ?? NONE;
    $('listed').textContent = this.found.length === 1 ? '1 problem' : `${this.found.length.toLocaleString('en')} problems`;
    const shown = this.found.slice(0, this.limit);
    $('list').replaceChildren(...shown.map((n) => make('li', '', this.item(n))));
    $('more').hidden = shown.length === this.found.length;
    this.read();
  }

  /** Returns the button of one problem in the list. */
  item(n) {
    const {answers} = this;
    const button = makeButton('', () => { this.current = n; this.mark(); this.read(); });
    button.dataset.problem = n;
    if (n === this.current) button.setAttribute('aria-current', 'true');
    const end = answers.given[n];
    const line = make('span', 'line');
    const [label] = FILTERS[this.kinds[n]];
    const tone = {lost: 'bad', wrong: 'bad', saved: 'good', gained: 'good'}[this.kinds[n]] ?? 'soft';
    line.append(make('span', `tag ${tone}`, label), this.strip(end));
    line.append(make('span', 'cost', end === NONE ? '' : percent(answers.cost(end, this.dial.metric), 0)));
    button.append(make('span', 'question', answers.texts[answers.problem.question[n]]), line);
    return button;
  }

  mark() {
    for (const {firstChild: button} of $('list').children) {
      if (Number(button.dataset.problem) === this.current) button.setAttribute('aria-current', 'true');
      else button.removeAttribute('aria-current');
    }
  }

  /** Returns a row of boxes, one for each part, coloured by its writer. */
  strip(end) {
    const found = make('span', 'strip');
    found.setAttribute('aria-hidden', 'true');
    if (end === NONE) return found;
    for (const part of this.answers.parts(end)) {
      if (this.draftOf(part) !== NONE) found.append(make('i', 'draft'));
      found.append(make('i', `w${this.answers.part.route[part] % 4}`));
    }
    return found;
  }

  /** The draft that a part has replaced, as a text; NONE if there is none. */
  draftOf(part) {
    const decision = this.answers.part.decision[part];
    if (decision === NONE || !this.answers.part.route[part]) return NONE;
    return this.answers.decision.draft[decision];
  }

  /** Shows the problem that is read. */
  read() {
    const {answers, current: n} = this;
    if (n === NONE) {
      $('answer').replaceChildren(make('p', 'soft', 'No problem passes the filter and the search.'));
      return;
    }
    // Another problem is read with its own answer beside it.
    if (this.readBefore !== n) this.beside = null;
    this.readBefore = n;
    const text = (column) => answers.texts[answers.problem[column][n]];
    const end = answers.given[n];
    const title = make('h3', '', answers.problem.id[n]);
    const verdict = make('p', 'row');
    const [label, words] = FILTERS[this.kinds[n]];
    verdict.append(make('span', 'tag', label), `${words}.`);
    const pair = make('div', 'pair');
    pair.append(this.column(n, end), this.besideColumn(n, end));
    $('answer').replaceChildren(
        title, make('pre', 'quote', text('question').trim()),
        make('p', 'soft', `Reference answer: ${text('answer')}`), verdict, pair);
  }

  /** Returns the router's answer. */
  column(n, end) {
    const column = make('div');
    const title = make('h3', '', 'The router');
    column.append(title);
    if (end === NONE) {
      column.append(make('p', 'soft', 'No recorded answer follows the router at this threshold.'));
      return column;
    }
    title.append(this.summary(end));
    column.append(this.course(end, 0));
    return column;
  }

  summary(end) {
    const share = this.answers.right(end);
    const found = make('span', share === 1 ? 'good' : 'bad', this.graded(share));
    const cut = this.answers.end.cut[end] > 0 ? ', cut off by the token limit' : '';
    return make('span', 'soft', found, `, ${percent(this.answers.cost(end, this.dial.metric), 1)} of the large model's cost${cut}`);
  }

  graded(share) {
    if (share === 1) return 'right';
    return share ? `right in ${percent(share, 0)} of draws` : 'wrong';
  }

  /** Returns the steps of an answer from a part on; the ones before are said. */
  course(end, from) {
    const {answers} = this;
    const list = make('ol', 'course');
    if (from) list.append(make('li', 'same', `${from === 1 ? 'The first step is' : `The first ${from} steps are`} the same.`));
    const metric = `cost ${this.dial.metric}`;
    answers.parts(end).forEach((part, number) => {
      if (number < from) return;
      const decision = answers.part.decision[part];
      const route = answers.part.route[part];
      if (this.draftOf(part) !== NONE) {
        list.append(this.entry('draft', 'draft, discarded', answers.texts[this.draftOf(part)], answers.decision[metric][decision], decision));
      }
      const entry = this.entry(`w${route % 4}`, answers.routes[route], answers.texts[answers.part.text[part]], answers.part[metric][part], this.draftOf(part) === NONE ? decision : NONE);
      if (decision !== NONE) entry.append(this.why(decision, route));
      list.append(entry);
    });
    return list;
  }

  /** Returns one step with its facts. */
  entry(style, name, text, cost, decision) {
    const facts = make('div', 'parts', make('span', `badge ${style}`, name));
    if (decision !== NONE) {
      const sure = this.answers.decision.confidence[decision];
      if (sure !== NONE) facts.append(make('span', '', `confidence ${(sure * SHARE_UNIT).toFixed(2)}`));
    }
    facts.append(make('span', 'cost', percent(cost * COST_UNIT, 1)));
    return make('li', style, facts, make('pre', '', text.trimEnd() || '(nothing)'));
  }

  /** Returns why a model wrote a step: the score beside the threshold. */
  why(decision, route) {
    const {answers, dial} = this;
    const score = answers.dial.score[decision];
    let depth = 0;
    for (let part = answers.decision.after[decision]; part !== NONE; part = answers.part.after[part]) depth += 1;
    const kappa = dial.threshold(depth);
    const isLarger = answers.isLarger(decision);
    const limit = Number.isFinite(kappa) ? kappa.toFixed(3) : kappa > 0 ? '∞' : '−∞';
    const compared = `score ${score.toFixed(3)} ${isLarger ? '≥' : '<'} ${limit}`;
    const chosen = isLarger ? answers.routes[answers.dial.route[decision]] : answers.routes[0];
    const meant = answers.routes[route] === chosen;
    const words = isLarger ? `the router calls ${chosen}` : `${chosen} goes on`;
    return make('p', `why ${isLarger ? '' : 'soft'}`, meant ? `${compared}: ${words}` : `${compared}: here ${words}`);
  }

  /** Returns another answer to the same problem, beside the router's. */
  besideColumn(n, end) {
    const {answers} = this;
    const others = answers.ends[n].filter((x) => x !== end);
    const small = others.find((x) => answers.parts(x).every((part) => !answers.part.route[part]));
    const choice = make('select');
    choice.setAttribute('aria-label', 'The answer beside it');
    choice.append(new Option('the large model alone', 'large'));
    for (const other of others) choice.append(new Option(`${answers.nameOf(other)} (${this.graded(answers.right(other))})`, other));
    // Where the router handed over: what the small model would have written.
    this.beside ??= small === undefined ? 'large' : String(small);
    choice.value = this.beside;
    const body = make('div');
    const fill = () => {
      this.beside = choice.value;
      if (choice.value === 'large') {
        const route = answers.routes.length - 1;
        const share = answers.largeRight(n);
        const words = make('p', 'soft', make('span', share === 1 ? 'good' : 'bad', this.graded(share)), ', 100 % of its own cost');
        body.replaceChildren(words, make('ol', 'course', this.entry(`w${route % 4}`, answers.routes[route], answers.texts[answers.problem.large[n]], 1 / COST_UNIT, NONE)));
        return;
      }
      const other = Number(choice.value);
      body.replaceChildren(make('p', '', this.summary(other)), this.course(other, this.shared(end, other)));
    };
    choice.addEventListener('change', fill);
    fill();
    return make('div', '', make('h3', '', 'Beside it:', choice), body);
  }

  /** How many parts two answers have in common. */
  shared(end, other) {
    if (end === NONE) return 0;
    const [ours, theirs] = [this.answers.parts(end), this.answers.parts(other)];
    let count = 0;
    while (count < ours.length && ours[count] === theirs[count]) count += 1;
    return count;
  }
}
