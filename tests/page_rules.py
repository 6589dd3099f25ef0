"""How the commands of the documents are made small, and run.

`RULES` is the table. The commands of a lane run in its order, so that a later
one finds what an earlier one has left. See `page_commands`.
"""

from tests import page_left
from tests.page_actions import Ask
from tests.page_actions import Rule
from tests.page_actions import Run
from tests.page_actions import Serve

_COLLECT = r'python -m experiments\.collect --config=configs/'
_COMPARE = r'python -m experiments\.compare --config=configs/'
_PIPELINE = r'python -m experiments\.pipeline --config=configs/'
_SERVE = r'python -m experiments\.serve --config=configs/'
_SWEEP = r'python -m experiments\.sweep --config=configs/'
_STUDY = r'python -m experiments\.studies\.'
_REAL = r'--config=configs/gsm8k_qwen25_coder\.py:shipped'

_FULL = ('.py ', '.py:smoke ')
_DEMO = (':demo ', ':smoke ')
# The full size has a directory of its own; here it is that of the demo.
_SAME = ('runs/arithmetic', 'runs/demo')
# Ladders of the demo, which others need not collect again.
_SHARED = '--config.data.directory=runs/demo'
# Less of what takes long in `:smoke`, too.
_FEW = (
    '"--config.evaluation.learners=(\'fitted Q, linear\',)"',
    '--config.evaluation.num_live=2',
)
# Where all answers have to be collected anew.
_TINY = (
    '--config.problems.train=16',
    '--config.problems.select=8',
    '--config.problems.prove=8',
    '--config.problems.test=8',
    '--config.batch_size=8',
    '--config.evaluation.num_live=0',
    "'--config.evaluation.learners=()'",
)
_ROUTERS = "\"--config.compare.routers=('policy', 'best constant')\""
# The recorded answers of the real pair have one size.
_SHORT = (
    _FEW[0],
    "'--config.train_seeds=(0,)'",
    '--config.num_steps=20',
    '--config.evaluation.num_trials=1',
    '--config.evaluation.resamples=200',
    '--config.evaluation.num_coverage_samples=0',
)
_PLANS = 'What would be done'
_BOUNDS = 'low and high'
_PLANNED = Run(more=('--dry_run',), says=_PLANS)

_FILES = (
    *('report.html', 'table.md', 'frontier.png', 'cost_metrics.png'),
    *('results.json', 'runs/seed0/operating_points.json'),
)


def _demo(*changes: tuple[str, str]) -> Run:
  """Returns what becomes of the pipeline that others build on."""
  return Run(
      changes=changes,
      leaves=tuple(f'runs/demo/{name}' for name in _FILES),
      says=r'Report, for a browser: runs/demo/report\.html',
  )


_EMBEDDED_PAIR = (
    Rule(_PIPELINE + r'arithmetic\.py:demo --workdir=runs/demo', _demo(_DEMO)),
    Rule('make demo', _demo(_DEMO)),
    Rule(
        _PIPELINE + r'arithmetic\.py --workdir=runs/arithmetic',
        _demo(_FULL, _SAME),
    ),
    Rule(_SERVE + r'arithmetic\.py:demo .*', Serve(changes=(_DEMO,))),
    Rule(_SERVE + r'arithmetic\.py --router=shipped .*', Serve()),
    Rule('make serve', Serve(leaves=('runs/serving/state.sqlite',))),
    Rule('curl .*/v1/chat/completions .*', Ask(says='"routing"')),
    Rule('curl -N .*/v1/completions .*', Ask(says=r'data: \[DONE\]')),
    Rule(_SERVE + '.* --new_key=alice', Run(leaves=('keys.json',))),
    Rule(
        _PIPELINE + r'arithmetic\.py:demo .* --config\.cost_metric=flops',
        Run(changes=(_DEMO,), more=(_SHARED, *_FEW)),
    ),
    Rule(
        _PIPELINE + r'arithmetic\.py --config\.protocol\.view=commit .*',
        Run(changes=(_FULL,), more=(_SHARED, *_FEW)),
    ),
    Rule(
        _STUDY + 'protocol_table .*',
        Run(changes=(('runs/arithmetic/', 'runs/demo/'),), says=r'\| escalate'),
    ),
    Rule(
        _SWEEP + r'arithmetic_sweep\.py .* --jobs=2',
        Run(
            changes=(_FULL, _SAME),
            more=(*_FEW, "'--match=levels=0.4,train_seeds=0'"),
            leaves=('runs/sweep/table.md',),
        ),
    ),
    Rule(
        _COMPARE + r'compare_arithmetic\.py --workdir=runs/arithmetic',
        Run(
            changes=(_FULL, _SAME),
            more=(_ROUTERS,),
            leaves=('runs/demo/compare/comparison.md',),
        ),
    ),
    Rule(
        _COMPARE + r'compare_arithmetic\.py:demo .* --config\.train_seeds=.*',
        Run(
            changes=(_DEMO, ('trials=6', 'trials=1'), ('(0,1,2)', '(0,)')),
            more=(_ROUTERS,),
        ),
    ),
    Rule(
        r'python -m experiments\.pretrain .* --workdir=runs/pair1',
        Run(
            changes=(_FULL,),
            # Compiling the optimizer takes longest, layer by layer.
            more=(
                '--config.small.shape.num_layers=1',
                '--config.large.shape.num_layers=1',
            ),
            leaves=('runs/pair1/small', 'runs/pair1/large'),
        ),
    ),
    Rule(
        _PIPELINE + r'arithmetic\.py .*model=runs/pair1/small.*',
        Run(changes=(_FULL,), more=(*_TINY, '--config.collect.max_tokens=66')),
    ),
    Rule(
        _STUDY + 'protocol_runs .* --workdir=runs/protocols',
        Run(
            changes=(_FULL,),
            more=(*_TINY, '--runs=redraft_exact'),
            leaves=('runs/protocols/protocols.md',),
        ),
    ),
    Rule(
        _STUDY + 'protocol_runs .* --workdir=runs/protocols_tuned .*',
        Run(
            # Continues what the one before has made, with its number of trials.
            changes=(_FULL, ('protocols_tuned', 'protocols'), ('=3 ', '=1 ')),
            # The last of two flags counts.
            more=(*_TINY, '--runs=redraft_exact'),
        ),
    ),
)

_REAL_PAIR = (
    Rule('make real', Run(more=_SHORT, leaves=('runs/real/report.html',))),
    Rule(
        _STUDY + f'walks {_REAL} .*',
        Run(more=_SHORT, leaves=('runs/real/walks.md',)),
    ),
    Rule(
        _STUDY + f'headroom {_REAL} .*',
        Run(more=_SHORT, leaves=('runs/real/headroom.json',)),
    ),
    Rule(
        _PIPELINE + r'gsm8k_qwen25_coder\.py:shipped .*data\.subject=.*',
        Run(more=_SHORT),
    ),
    Rule(_STUDY + f'transfer {_REAL} .*', Run(more=_SHORT)),
    Rule(
        _SWEEP + r'gsm8k_ablation\.py .*',
        Run(
            more=(*_SHORT, '--match=view=commit'),
            leaves=('runs/real_ablation/table.md',),
        ),
    ),
    Rule(_COMPARE + r'compare_gsm8k\.py .*', Run(more=(*_SHORT, _ROUTERS))),
)

# Models that have to be downloaded, started or paid.
_OTHER_MODELS = (
    Rule(_PIPELINE + r'own_models\.py(:servers)? (?!.*dry_run).*', _PLANNED),
    Rule(_PIPELINE + r'own_models\.py .* --dry_run', Run(says=_PLANS)),
    Rule(_COMPARE + r'compare_own_models\.py .*', _PLANNED),
    Rule(
        _PIPELINE + r'arithmetic_(vllm|servers)\.py .*',
        Run((_FULL,), ('--dry_run',), says=_PLANS),
    ),
    Rule(_PIPELINE + r'gsm8k_qwen25_coder\.py:cpu .*', _PLANNED),
    Rule(_PIPELINE + r'paper\.py:.*', _PLANNED),
    Rule(
        r'python -m experiments\.scoring\.score_steps .*',
        Run(more=('--dry_run',)),
    ),
    Rule(
        _COLLECT + r'own_models\.py .*', Run(more=('--dry_run',), says=_BOUNDS)
    ),
    Rule(
        r'OPENAI_API_KEY=\.\.\. ' + _COLLECT + r'arithmetic_paid\.py .*',
        Run((('=... ', '=none '), _FULL), ('--dry_run',), says=_BOUNDS),
    ),
    # With the flag in the page or without it.
    *(
        Rule(
            program + r'arithmetic_paid\.py ' + flags,
            Run((_FULL,), more, says=says),
        )
        for program, says in ((_COLLECT, _BOUNDS), (_PIPELINE, _PLANS))
        for flags, more in (
            (r'(?!.*dry_run).*', ('--dry_run',)),
            (r'.* --dry_run.*', ()),
        )
    ),
    Rule(_PIPELINE + r'arithmetic\.py:smoke .* --dry_run', Run(says=_PLANS)),
)

_REST = (
    # absl ends with 1 after help.
    Rule(
        r'python -m experiments\.train --helpshort',
        Run(says='--workdir', code=1),
    ),
    Rule(_STUDY + 'results_page', Run()),
)

# Each runs beside the others, which need nothing of it.
LANES = (_EMBEDDED_PAIR, (*_REAL_PAIR, *_OTHER_MODELS, *_REST))
RULES = (*(rule for lane in LANES for rule in lane), *page_left.RULES)
