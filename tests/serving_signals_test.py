"""A process that serves is told to stop while it answers."""

from concurrent import futures
import contextlib
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys

from absl.testing import absltest
import httpx

from tests import checkout
from tests import router_server


class StopTest(absltest.TestCase):

  def start(self):
    """Starts a service; returns the process, its address and its files."""
    with socket.create_server(('127.0.0.1', 0)) as listener:
      port = listener.getsockname()[1]
    folder = pathlib.Path(self.create_tempdir().full_path)
    output, log = folder / 'output', folder / 'log'
    process = subprocess.Popen(
        [sys.executable, '-m', 'tests.served_process', str(port)],
        cwd=checkout.ROOT,
        env=os.environ | {'PYTHONPATH': str(checkout.ROOT)},
        stdout=self.enter_context(output.open('w')),
        stderr=self.enter_context(log.open('w')),
    )
    self.addCleanup(process.wait)
    self.addCleanup(process.kill)
    url = f'http://127.0.0.1:{port}'

    def is_ready():
      self.assertIsNone(process.poll(), log.read_text())
      with contextlib.suppress(httpx.TransportError):
        return httpx.get(f'{url}/ready').is_success

    router_server.until(is_ready, 120)
    return process, url, output, log

  def test_requests_in_flight_finish_and_models_are_closed(self):
    process, url, output, log = self.start()
    ask = lambda: httpx.post(
        f'{url}{router_server.CHAT}', json=router_server.body(), timeout=60
    )
    with (
        futures.ThreadPoolExecutor(3) as pool,
        httpx.Client(base_url=url) as client,
    ):
      asked = [pool.submit(ask) for _ in range(3)]
      router_server.until(
          lambda: router_server.metric(client, 'routing_running_answers') == 3
      )
      process.send_signal(signal.SIGTERM)
      answers = [x.result() for x in asked]
    for answer in answers:
      self.assertEqual(answer.status_code, 200)
      choice = answer.json()['choices'][0]
      self.assertEqual(choice['finish_reason'], 'stop')
      self.assertEndsWith(choice['message']['content'], '#### 17')
    # The service now waits for the shadows. A second signal ends them, and
    # still the models are closed: they may be processes that would stay.
    router_server.until(lambda: 'closing' in output.read_text())
    self.assertIsNone(process.poll())
    process.send_signal(signal.SIGTERM)
    self.assertEqual(process.wait(60), 0)
    small, large = router_server.SMALL, router_server.LARGE
    self.assertEqual(
        output.read_text().splitlines(),
        ['closing', f'closed {small}', f'closed {large}'],
    )
    last = json.loads(log.read_text().splitlines()[-1])
    self.assertEqual(last['event'], 'stop')


if __name__ == '__main__':
  absltest.main()
