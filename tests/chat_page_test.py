"""The chat page: how it is served, and what a real browser makes of it."""

import base64
import hashlib
import importlib.util
import re
import subprocess
import sys
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized

from routing.engines import scripted
from tests import browsers
from tests import checkout
from tests import router_server
from tests import scripted_pair

_SMALL, _LARGE = router_server.SMALL, router_server.LARGE
_PHONE = dict(width=375, height=700)
# Of what is shown, the lowest contrast of a text with what is behind it, as the
# WCAG 2.2 define it. Disabled controls are exempt there.
_CONTRAST = """() => {
  const rgb = (x) => x.match(/[\\d.]+/g).map(Number);
  const luminance = (x) => {
    const [r, g, b] = rgb(x).map((v) => v / 255).map(
        (v) => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
    return .2126 * r + .7152 * g + .0722 * b;
  };
  const behind = (x) => {
    const colour = getComputedStyle(x).backgroundColor;
    return (rgb(colour)[3] ?? 1) ? colour : behind(x.parentElement);
  };
  const texts = [...document.body.querySelectorAll('*')].filter(
      (x) => x.checkVisibility() && !x.matches(':disabled, option') &&
          [...x.childNodes].some((n) => n.nodeType === 3 && n.data.trim()));
  return Math.min(...texts.map((x) => {
    const found = [luminance(getComputedStyle(x).color), luminance(behind(x))];
    return (Math.max(...found) + .05) / (Math.min(...found) + .05);
  }));
}"""

# Prints the data files that `pip install` copies beside the service.
_PACKAGED = """
import setuptools
from distutils import core
found = core.run_setup('setup.py', ['-q', 'build_py'], stop_after='commandline')
command = found.get_command_obj('build_py')
command.ensure_finalized()
for package, _, _, names in command.data_files:
  if package == 'routing.serving':
    print(*names)
"""


class ServedTest(router_server.SharedCase):

  def test_the_policy_allows_the_page_and_nothing_else(self):
    found = self.http.get('/')
    self.assertEqual(found.status_code, 200)
    self.assertStartsWith(found.headers['content-type'], 'text/html')
    policy = dict(
        x.split(' ', 1)
        for x in found.headers['content-security-policy'].split('; ')
    )
    self.assertEqual(policy['default-src'], "'none'")
    self.assertEqual(policy['connect-src'], "'self'")
    for tag in ('script', 'style'):
      self.assertEqual(found.text.count(f'<{tag}'), 1)
      text = found.text.split(f'<{tag}>')[1].split(f'</{tag}>')[0]
      digest = base64.b64encode(hashlib.sha256(text.encode()).digest())
      self.assertEqual(policy[f'{tag}-src'], f"'sha256-{digest.decode()}'")
    self.assertNotIn('unsafe', found.headers['content-security-policy'])

  def test_a_stream_names_the_metric_before_its_first_step(self):
    body = router_server.body(stream=True)
    with self.http.stream('POST', router_server.CHAT, json=body) as found:
      self.assertEqual(found.headers['x-routing-metric'], 'price')

  def test_the_page_is_whole_and_keeps_nothing(self):
    text = self.http.get('/').text
    self.assertNotRegex(text, r'https?://|//[\w.]+/|@import|url\(')
    self.assertEqual(re.findall(r'(?:src|href)="(.*?)"', text), ['data:,'])
    self.assertNotRegex(text, r'(?i)localStorage|sessionStorage|cookie\b *=')
    self.assertNotRegex(text, r'innerHTML|insertAdjacentHTML|\beval\(')

  def test_the_page_is_part_of_the_package(self):
    if importlib.util.find_spec('setuptools') is None:
      self.skipTest('setuptools is not installed.')
    run = subprocess.run(
        [sys.executable, '-c', _PACKAGED],
        cwd=checkout.ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    self.assertIn('page/index.html', run.stdout.split())


class BrowserTest(router_server.ServedCase):
  """Tests in a headless Chromium; skipped, with the reason, without one."""

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.browser = browsers.launch(cls)
    cls.engines = scripted_pair.make_engines(2)
    running = router_server.running(
        lambda: router_server.scripted_service(engines=cls.engines)
    )
    cls.running = cls.enterClassContext(running)
    cls.http = cls.enterClassContext(cls.running.client())

  def open(self, url=None, **options):
    """Returns the page in a fresh browser, watched until the test ends."""
    context = self.browser.new_context(**options)
    self.addCleanup(context.close)
    context.set_default_timeout(20_000)
    page = context.new_page()
    self.faults, self.hosts = [], set()
    page.on('pageerror', lambda error: self.faults.append(str(error)))
    page.on('request', lambda x: self.hosts.add(x.url.split('/')[2]))
    page.on(
        'console',
        lambda x: 'Security Policy' in x.text and self.faults.append(x.text),
    )
    page.goto(url or self.running.url)
    return page

  def ask(self, page, question=router_server.QUESTION):
    """Asks by mouse, and waits until the answer has ended."""
    page.locator('#send:enabled').wait_for()
    page.fill('#question', question)
    page.click('#send')
    page.locator('.end').first.wait_for()
    page.locator('#send:enabled').wait_for()

  def choose(self, page, place):
    """Moves the slider to a place, counted from 0, by keys."""
    page.locator('#point:enabled').press('Home')
    for _ in range(place):
      page.press('#point', 'ArrowRight')

  def test_the_slider_goes_from_cheap_to_careful(self):
    page = self.open()
    self.choose(page, 0)
    found = []
    for _ in range(5):
      words = page.locator('#promise').inner_text()
      found.append((page.inner_text('#point-name'), 'not promised' in words))
      page.press('#point', 'ArrowRight')
    # By the costs of calibration: .3, .45, .7, .9, 1.1.
    self.assertEqual(
        found,
        [
            ('cost<=0.3', True),
            ('cost<=0.5', True),
            ('loss<=0.05@0.9', False),
            ('loss<=0.02@0.9', False),
            ('loss<=0.3@0.9', False),
        ],
    )
    self.assertIn('Loss ≤ 0.3 with probability 0.9', words)
    self.assertIn('accuracy 95 %, cost 110 %', words)

  def test_one_button_asks_an_example(self):
    found, _ = self.serve(
        lambda: router_server.scripted_service(example=router_server.QUESTION)
    )
    page = self.open(found.url)
    page.locator('#send:enabled').click()
    page.locator('.total').wait_for()
    steps = page.locator('ol li').all_inner_texts()
    self.assertEqual([x.split('\n')[-1] for x in steps][0], '13')
    self.assertTrue(page.is_visible('#example'))
    # What somebody has typed is kept.
    page.reload()
    page.fill('#question', '1:1')
    page.evaluate('load()')
    self.assertEqual(page.input_value('#question'), '1:1')
    self.assertTrue(page.is_hidden('#example'))

  def test_steps_by_two_writers_with_costs_by_hand(self):
    page = self.open()
    self.choose(page, 1)
    self.ask(page)
    steps = page.locator('ol li')
    texts = [x.split('\n')[-1] for x in steps.all_inner_texts()]
    self.assertEqual(texts, ['13', '14', '15', '16', '17', '#### 17'])
    self.assertEqual(
        page.locator('ol .badge').all_inner_texts(), [_SMALL] + [_LARGE] * 5
    )
    # As serving_test works them out, in millionths of a dollar. Small reads 5
    # and writes 4; then its draft, which the larger reads over and discards.
    costs = [5 * 0.2 + 4, 9 * 0.02 + 4 + 9 * 0.8 + 4 * 4, 16, 16, 16, 28]
    self.assertEqual(
        page.locator('ol .cost').all_inner_texts(),
        # Three digits: $0.00000500, and $0.0000274 and so on.
        [f'${x / 1e6:.{8 if x < 10 else 7}f}' for x in costs],
    )
    self.assertIn('4 discarded', steps.nth(1).inner_text())
    self.assertRegex(steps.nth(0).inner_text(), r'score 0\.\d+ < 0\.600')
    self.assertRegex(steps.nth(1).inner_text(), r'score 0\.\d+ ≥ 0\.600')
    # 108.38 of 5 * .8 + 27 * 4 = 112 that the larger would have cost.
    self.assertEqual(page.inner_text('.total'), '$0.000108')
    self.assertEqual(page.inner_text('.alone'), '$0.000112')
    self.assertStartsWith(page.inner_text('.saved'), f'96.8 % of what {_LARGE}')
    # Another metric shows the same answer anew; one is not known for all.
    page.select_option('#metric', 'latency')
    self.assertEqual(page.inner_text('.alone'), 'not known')
    self.assertEqual(page.locator('.saved').count(), 0)
    self.assertEmpty(self.faults)
    self.assertEqual(self.hosts, {self.running.url.split('/')[2]})

  def test_colours_and_edges_tell_the_writers_apart(self):
    page = self.open()
    self.choose(page, 1)
    self.ask(page)
    small, large = (
        page.locator('ol li')
        .nth(index)
        .evaluate(
            '(x) => { const s = getComputedStyle(x);'
            ' return [s.borderLeftColor, s.borderLeftStyle]; }'
        )
        for index in (0, 1)
    )
    self.assertNotEqual(small[0], large[0])
    self.assertEqual((small[1], large[1]), ('solid', 'double'))

  def test_steps_appear_before_the_answer_ends_and_stop_ends_it(self):
    engine = self.engines[1]
    page = self.open()
    self.choose(page, 1)
    with mock.patch.object(engine, 'delay', 60.0):
      page.fill('#question', router_server.QUESTION)
      page.click('#send')
      page.locator('ol li').wait_for()  # While the larger model writes.
      self.assertEqual(page.locator('ol .badge').all_inner_texts(), [_SMALL])
      self.assertTrue(page.is_hidden('.end'))
      router_server.until(lambda: engine.num_in_flight == 1)
      page.click('#stop')
      page.locator('.end:has-text("Stopped")').wait_for()
      router_server.until(lambda: engine.num_in_flight == 0)
    self.ask(page)  # And the next question is answered.
    self.assertEqual(page.locator('article').first.locator('li').count(), 6)

  def test_all_of_it_by_keyboard(self):
    page = self.open(viewport=_PHONE)
    page.locator('#send:enabled').wait_for()

    def tab_to(selector):
      for _ in range(30):
        page.keyboard.press('Tab')
        if page.locator(f'{selector}:focus-visible').count():
          return
      self.fail(f'Tab never reaches {selector}.')

    tab_to('#point')
    page.keyboard.press('End')
    page.keyboard.press('ArrowLeft')
    tab_to('#question')
    page.keyboard.type('12:5')
    with page.expect_request('**/v1/chat/completions') as asked:
      page.keyboard.press('Control+Enter')
    self.assertEqual(
        asked.value.post_data_json['model'], 'router@loss<=0.02@0.9'
    )
    page.locator('.total').wait_for()
    graded = dict(name='routing_feedback_total', correct='false')
    before = router_server.metric(self.http, **graded)
    tab_to('button:has-text("Wrong")')
    page.keyboard.press('Space')
    page.locator('text=Thank you').wait_for()
    self.assertEqual(router_server.metric(self.http, **graded), before + 1)
    self.assertTrue(page.is_disabled('button:has-text("Right")'))

  def test_costs_are_in_the_metric_of_the_router_until_one_is_chosen(self):
    page = self.open()

    def of_another_router(route):
      found = route.fetch()
      headers = found.headers | {'x-routing-metric': 'flops'}
      route.fulfill(response=found, headers=headers)

    page.route('**/v1/chat/completions', of_another_router)
    self.ask(page)
    self.assertEndsWith(page.inner_text('.total'), ' FLOP')
    page.select_option('#metric', 'price')
    self.ask(page)
    self.assertStartsWith(page.locator('.total').first.inner_text(), '$')

  def test_an_error_is_shown(self):
    page = self.open()
    self.ask(page, 'x' * 20_001)
    said = 'The question has 20001 characters; allowed: 1 to 20000.'
    self.assertEqual(page.inner_text('.end'), said)
    self.assertEqual(page.inner_text('#status'), said)

  def test_an_answer_is_text_and_never_markup(self):
    page = self.open()
    page.locator('#send:enabled').wait_for()
    page.select_option('#who', _LARGE)
    text = '<img src=x onerror="window.ran=1"><script>window.ran=1</script>'
    engine = self.engines[1]
    with mock.patch.object(engine, 'script', scripted.recite(text)):
      self.ask(page)
    self.assertEqual(page.inner_text('ol pre'), text)
    # And what got in by another way would not run, nor load.
    page.evaluate("""() => {
          const script = document.createElement('script');
          script.textContent = 'window.ran = 1';
          document.body.append(script);
        }""")
    self.assertIsNone(page.evaluate('window.ran'))
    router_server.until(lambda: page.evaluate('1') and self.faults)
    self.assertLen(self.faults, 1)
    self.assertIn('script-src', self.faults[0])

  @parameterized.parameters('light', 'dark')
  def test_texts_are_readable_in(self, scheme):
    page = self.open(color_scheme=scheme, viewport=_PHONE)
    self.ask(page)
    self.assertGreaterEqual(page.evaluate(_CONTRAST), 4.5)
    back = page.evaluate('getComputedStyle(document.body).backgroundColor')
    shade = sum(map(int, re.findall(r'\d+', back))) / 3
    self.assertEqual(shade > 128, scheme == 'light')
    # Nothing is wider than a phone.
    self.assertEqual(page.evaluate('document.body.scrollWidth'), 375)

  def test_a_key_is_asked_for_used_and_forgotten(self):
    keys, secret, _ = self.keys()
    found, _ = self.serve(keys=keys)
    page = self.open(found.url)
    page.locator('#key').wait_for()
    self.assertTrue(page.is_disabled('#send'))
    page.fill('#key', 'sk-routing-wrong')
    page.press('#key', 'Enter')
    page.locator('#status.bad:has-text("key")').wait_for()
    page.fill('#key', secret)
    page.press('#key', 'Enter')
    page.locator('#key').wait_for(state='hidden')
    self.ask(page)
    self.assertGreater(page.locator('ol li').count(), 0)
    kept = 'JSON.stringify([localStorage, sessionStorage, document.cookie])'
    self.assertEqual(page.evaluate(kept), '[{},{},""]')
    self.assertNotIn(secret, page.url)
    page.reload()
    page.locator('#key').wait_for()
    self.assertEqual(page.input_value('#key'), '')


if __name__ == '__main__':
  absltest.main()
