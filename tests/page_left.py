"""The commands of the documents that are not run, why not, and what runs them.

See `page_commands`.
"""

from tests.page_actions import Leave
from tests.page_actions import Rule

_PIPELINE = r'python -m experiments\.pipeline --config=configs/'
_STUDY = r'python -m experiments\.studies\.'
# What runs a benchmark at a small size.
_BENCHMARKS = {
    'collection': 'benchmarks.regressions, where vLLM is',
    'collection_breakdown': 'tests/collection_breakdown_test.py, its parts',
    'device': 'tests/device_benchmark_test.py',
    'frontier': 'benchmarks.regressions',
    'grading': 'tests/grading_benchmark_test.py',
    'judge': 'tests/judge_benchmark_test.py',
    'kills': 'stage kills of .ci/run',
    'ladders': 'benchmarks.regressions',
    'outcome_table': 'benchmarks.regressions',
    'scale': 'tests/scale_test.py',
    'schema_cases': 'tests/schema_cases_test.py',
    'served_answers': 'tests/serving_embedded_test.py',
    'served_promise': 'tests/served_promise_test.py',
    'serving': 'tests/serving_load_test.py',
    'serving_faults': 'tests/serving_embedded_test.py',
    'start': '',
    'step_counts': 'tests/step_counts_test.py',
    'training_step': 'tests/training_step_test.py',
}

RULES = (
    *(
        Rule(
            rf'python -m benchmarks\.{name}( --.*)?',
            Leave('measures for minutes', elsewhere),
        )
        for name, elsewhere in _BENCHMARKS.items()
    ),
    Rule(
        'make benchmarks',
        Leave('measures for minutes', 'tests/regressions_test.py, its parts'),
    ),
    Rule(
        r'pip install .*|python -m venv \.venv|source \.venv/bin/activate',
        Leave('installs', 'stage install and stage package of .ci/run'),
    ),
    Rule('make test', Leave('takes long', 'stage test of .ci/run')),
    Rule('make docs', Leave('takes long', 'stage docs of .ci/run')),
    Rule('make package', Leave('takes long', 'stage package of .ci/run')),
    Rule('make versions', Leave('installs', '.github/workflows/test.yml')),
    Rule(
        'make pages',
        Leave('executes the notebooks', 'stage package of .ci/run'),
    ),
    Rule(
        r'python -m pytest tests/conformance_test\.py( -k mine)?',
        Leave('is a test', 'stage test of .ci/run'),
    ),
    Rule(
        _PIPELINE + r'arithmetic\.py:smoke --workdir=runs/your_own_pair',
        Leave('is a cell of a notebook', 'stage package of .ci/run'),
    ),
    Rule(
        r'python -m experiments\.\w+',
        Leave('names a stage, without its flags', 'the pipelines above'),
    ),
    Rule(
        _PIPELINE + r'arithmetic\.py:demo --workdir=runs/layout .*',
        Leave(
            'needs the feature that the reader adds', 'tests/features_test.py'
        ),
    ),
    Rule(
        _STUDY + r'transfer --config=configs/paper\.py.*',
        Leave(
            'needs the runs of the paper, on a GPU',
            'the same command on the real pair, above',
        ),
    ),
    Rule(
        r'python -m experiments\.sweep .*/arithmetic_ablation\.py .*',
        Leave('collects replies first', 'tests/sweep_test.py'),
    ),
    Rule(
        _STUDY + r'routellm_responses .*',
        Leave('needs a file of RouteLLM', 'tests/routellm_responses_test.py'),
    ),
    Rule(
        r'python -m experiments\.compare .* --config\.compare\.trained=.*',
        Leave('takes hours', 'tests/shipped_ladders_test.py'),
    ),
    Rule(
        r'python -m experiments\.compare .*my_router:MINE.*',
        Leave("needs the reader's router", 'tests/router_registry_test.py'),
    ),
    Rule(
        r'python -m experiments\.serve .*/own_models\.py .*',
        Leave('needs a trained router', 'tests/serving_load_test.py'),
    ),
    Rule(
        r'python -m experiments\.compare .*compare_gsm8k\.py:live .*',
        Leave('needs the weights of the pair', 'tests/conformance_test.py'),
    ),
    Rule(
        _STUDY + r'coverage .*',
        Leave('takes minutes', 'tests/coverage_test.py'),
    ),
    Rule(
        _STUDY + r'optimum .*', Leave('takes minutes', 'tests/optimum_test.py')
    ),
    Rule(
        r'ray start.*|python (?!.*s3://).* --launcher=ray .*',
        Leave(
            'needs a cluster', 'stage cluster of .ci/run, tests/ray_*_test.py'
        ),
    ),
    Rule(
        r'python .*s3://bucket/.*',
        Leave(
            'needs an object store',
            'stage cluster of .ci/run, tests/remote_*_test.py',
        ),
    ),
    Rule(
        r'docker compose .*',
        Leave('needs Docker and GPUs', 'tests/deploy_test.py, their form'),
    ),
    Rule(
        r'vllm serve .*',
        Leave('needs several GPUs'),
    ),
    Rule(
        r'LITELLM_MASTER_KEY=.*',
        Leave(
            'needs litellm in an environment of its own',
            'tests/clients_test.py',
        ),
    ),
)
