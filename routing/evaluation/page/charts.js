// The charts, drawn by Vega-Lite from the colours of the page.

const isDark = () => matchMedia('(prefers-color-scheme: dark)').matches;
const colourOf = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
// On dark ground black is invisible, and the blues are faint or alike; on light
// ground yellow is faint.
const ON_DARK = {'#000000': '#e8eaee', '#0072B2': '#3f97e6', '#56B4E9': '#a9dcff', '#7F7F7F': '#a5adba'};
const ON_LIGHT = {'#F0E442': '#a89a00'};
const PALETTE = ['#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9', '#000000', '#7F7F7F'];

/** Returns a colour of the palette as it can be seen on the page. */
function visible(colour) {
  return (isDark() ? ON_DARK : ON_LIGHT)[colour] ?? colour;
}

/** Returns the settings that all charts share. */
function chartConfig() {
  const [text, soft, line] = ['--text', '--soft', '--line'].map(colourOf);
  return {
    background: 'transparent', font: 'system-ui, sans-serif', aria: false,
    view: {stroke: null},
    axis: {
      labelColor: soft, titleColor: text, domainColor: soft, tickColor: soft,
      gridColor: line, gridOpacity: .7, labelFontSize: 12, titleFontSize: 13,
      titleFontWeight: 'normal',
    },
    title: {color: text, fontSize: 13, anchor: 'start', fontWeight: 600},
  };
}

/** Draws a chart into an element, and returns its view. */
async function draw(element, spec) {
  const options = {
    mode: 'vega-lite', actions: false, renderer: 'svg',
    tooltip: {theme: isDark() ? 'dark' : 'custom'},
  };
  const full = {
    width: 'container', autosize: {type: 'fit', contains: 'padding'},
    config: chartConfig(), ...spec,
  };
  element.dataset.ready = '';
  const {view} = await window.vegaEmbed(element, full, options);
  // The element has the label of the whole picture.
  element.querySelector('svg').setAttribute('aria-hidden', 'true');
  element.dataset.ready = 'yes';
  return view;
}

/** Returns a small picture of how a curve is drawn, for a legend. */
function swatch(colour, dash = [], width = 2) {
  const space = 'http://www.w3.org/2000/svg';
  const svg = document.createElementNS(space, 'svg');
  for (const [name, value] of Object.entries({width: 28, height: 10, 'aria-hidden': 'true'})) {
    svg.setAttribute(name, value);
  }
  const line = document.createElementNS(space, 'line');
  const drawn = {
    x1: 1, x2: 27, y1: 5, y2: 5, stroke: visible(colour),
    'stroke-width': width + .5, 'stroke-dasharray': dash.join(' '),
  };
  for (const [name, value] of Object.entries(drawn)) line.setAttribute(name, value);
  svg.append(line);
  return svg;
}

/** Returns a curve of columns as rows with a name. */
function rowsOf(name, {label, width}, curve) {
  return curve.cost.map((cost, i) => ({
    name, label, cost, accuracy: curve.accuracy[i],
    low: curve.low[i], high: curve.high[i], width,
    interval: `${percent(curve.low[i], 1)} to ${percent(curve.high[i], 1)}`,
  }));
}

/**
 * A chart of accuracy against cost with curves that can be hidden.
 *
 * looks: name -> {label, color, dash, width, shown}.
 */
class FrontierChart {
  constructor(element, legend, looks, bands) {
    Object.assign(this, {element, legend, looks, bands});
    this.shown = new Set(Object.keys(looks).filter((x) => looks[x].shown));
    this.mark = [];
    bands?.addEventListener('change', () => this.refresh());
  }

  /** Shows curves: name -> {cost, accuracy, low, high}; and anchors. */
  async show(label, curves, anchors) {
    Object.assign(this, {label, curves, anchors});
    this.offer();
    const names = Object.keys(this.looks).filter((x) => x in curves);
    const highest = Math.max(...names.flatMap((x) => curves[x].cost));
    const lowest = Math.min(...names.flatMap((x) => curves[x].cost));
    const scale = (key, range) => ({
      field: key, type: 'nominal', legend: null, scale: {domain: names, range},
    });
    const colour = scale('name', names.map((x) => visible(this.looks[x].color)));
    const x = {
      field: 'cost', type: 'quantitative', title: [`cost in ${label}`, '(100 % = the large model alone)'],
      scale: {domain: [Math.min(lowest, ...anchors.map((a) => a.cost)), Math.min(highest, 1.3)], nice: false, zero: false},
      axis: {format: '~%', grid: false},
    };
    // The range of the curves, and of the bands that are shown at first.
    const heights = [
      ...names.flatMap((x) => curves[x].accuracy), ...anchors.map((a) => a.accuracy),
      ...names.filter((x) => this.isBanded(x)).flatMap((x) => [...curves[x].low, ...curves[x].high]),
    ];
    const y = {
      field: 'accuracy', type: 'quantitative', title: 'accuracy',
      scale: {domain: [Math.min(...heights), Math.max(...heights)], zero: false},
      axis: {format: '~%', tickCount: 6},
    };
    const tooltip = [
      {field: 'label', title: 'method'},
      {field: 'cost', type: 'quantitative', format: '.1%'},
      {field: 'accuracy', type: 'quantitative', format: '.1%'},
      {field: 'interval', title: '95 %'},
    ];
    const layer = [
      {data: {name: 'bands', values: []}, mark: {type: 'area', opacity: .16, clip: true}, encoding: {x, y: {...y, field: 'low'}, y2: {field: 'high'}, color: colour}},
      {data: {name: 'curves', values: []}, mark: {type: 'line', clip: true}, encoding: {
        x, y, color: colour, strokeDash: scale('name', names.map((n) => this.looks[n].dash.length ? this.looks[n].dash : [1, 0])),
        strokeWidth: {field: 'width', type: 'quantitative', scale: null, legend: null},
      }},
      {data: {name: 'hover', values: []}, mark: {type: 'point', filled: true, size: 160, opacity: 0.001, clip: true}, encoding: {x, y, tooltip}},
      {data: {values: anchors}, mark: {type: 'point', filled: true, size: 70, color: colourOf('--text'), opacity: 1}, encoding: {x, y, tooltip: tooltip.slice(0, 3)}},
      {data: {values: anchors}, mark: {type: 'text', fontSize: 12, color: colourOf('--text'), align: {expr: 'datum.align'}, dx: {expr: 'datum.dx'}, dy: {expr: 'datum.dy'}}, encoding: {x, y, text: {field: 'text'}}},
      {data: {name: 'rule', values: []}, mark: {type: 'rule', color: colourOf('--soft'), strokeDash: [2, 2]}, encoding: {x}},
      {data: {name: 'mark', values: []}, mark: {type: 'point', size: 190, strokeWidth: 3, filled: false, color: colourOf('--text'), opacity: 1}, encoding: {x, y, tooltip: tooltip.slice(0, 3)}},
    ];
    this.view = await draw(this.element, {height: 400, layer});
    this.refresh();
  }

  /** Whether a curve has its band unless all have. */
  isBanded(name) { return this.looks[name].banded ?? name === 'policy'; }

  /** Fills the legend; each of its buttons shows or hides a curve. */
  offer() {
    const items = Object.entries(this.looks).filter(([name]) => name in this.curves);
    this.legend.replaceChildren(...items.map(([name, look]) => {
      const button = makeButton('', () => {
        const isShown = !this.shown.delete(name);
        if (isShown) this.shown.add(name);
        button.setAttribute('aria-pressed', isShown);
        this.refresh();
      });
      button.append(swatch(look.color, look.dash, look.width), look.label);
      button.setAttribute('aria-pressed', this.shown.has(name));
      return button;
    }));
  }

  /** Puts a mark at an operating point, given as {label, cost, accuracy}. */
  point(mark) {
    this.mark = mark ? [mark] : [];
    this.refresh();
  }

  /** Draws what is shown now. */
  refresh() {
    if (!this.view) return;
    const names = [...this.shown].filter((x) => x in this.curves);
    const rows = names.flatMap((x) => rowsOf(x, this.looks[x], this.curves[x]));
    const banded = this.bands?.checked ? rows : rows.filter((x) => this.isBanded(x.name));
    this.view.data('curves', rows).data('hover', rows).data('bands', banded)
        .data('mark', this.mark).data('rule', this.mark).run();
    const said = names.map((x) => this.looks[x].label).join(', ');
    this.element.setAttribute('aria-label', `Accuracy against cost in ${this.label}: ${said}. The table below has all figures.`);
  }
}

/** Returns the anchors of a metric as points with labels. */
function anchorsOf(anchors) {
  return ['small', 'large'].filter((x) => anchors[`${x}_cost`] !== null).map((x) => ({
    label: `${x} model alone`, text: `${x} model alone`, cost: anchors[`${x}_cost`], accuracy: anchors[`${x}_accuracy`],
    align: x === 'small' ? 'left' : 'right', dx: x === 'small' ? 8 : -6, dy: x === 'small' ? 12 : -10,
  }));
}
