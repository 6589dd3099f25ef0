"""Tests of reading answers without computer algebra."""

import fractions

from absl.testing import absltest
from absl.testing import parameterized

from routing.grading import plain


class ValueTest(parameterized.TestCase):

  @parameterized.parameters(
      (r'\$9{,}500', '9500', 'dollar'),
      ('$9,500.00', '9500', 'dollar'),
      ('-$38,000', '-38000', 'dollar'),
      ('$-3$', '-3', ''),
      ('9500 dollars', '9500', 'dollar'),
      (r'11,\! 111,\! 100', '11111100', ''),
      ('1 000', '1000', ''),
      (r'1\,000.5', '1000.5', ''),
      ('.5', '1/2', ''),
      (r'40\%', '40', '%'),
      (r'28\text{ pct}', '28', '%'),
      ('25% more likely', '25', '%'),
      ('24 2/3', '74/3', ''),
      (r'24\frac{2}{3}', '74/3', ''),
      (r'-\dfrac12', '-1/2', ''),
      (r'\frac{1}{2} \text{ meters}', '1/2', 'metre'),
      (r'12 \text{ cm}^2', '12', 'centimetre'),
      ('12 cm^2', '12', 'centimetre'),
      (r'5 \text{ m}', '5', 'metre'),
      ('5cm', '5', 'centimetre'),
      (r'90^\circ', '90', 'degree'),
      (r'1.5 \times 10^{5}', '150000', ''),
      ('2e-3', '1/500', ''),
      ('8 red chickens', '8', ''),
      ('5 in total', '5', ''),
      ("520 (Thursday's revenue)", '520', ''),
      ('Jackson is 4 years old.', '4', 'year'),
      ('6th place', '6', ''),
      (r'\boxed{\text{$7$}}', '7', ''),
  )
  def test_one_number(self, text, number, unit):
    got = plain.value(text)
    self.assertIsNotNone(got)
    self.assertEqual(got.number, fractions.Fraction(number))
    if r'\text{$7' not in text:  # There the sign is a delimiter.
      self.assertEqual(got.unit, unit)

  @parameterized.parameters(
      *('24 selfies and 18 portraits', '32, 349', '1000,99', '2:00 pm'),
      *('62 + 3x', '3x', 'x2', 'x = 5', '5 - 3', '12-5', '2^5', '5!', '5 m'),
      *('2 million', 'half of 10', '2 pi', '5 mod 7', 'minus 3', '1/0', 'ten'),
      *(
          '',
          '.',
          '-',
          '$',
          '\\',
          '1e99999',
          r'\frac{1}{}',
          'Answer $ \n 9 \n $',
      ),
  )
  def test_what_is_not_surely_one_number(self, text):
    self.assertIsNone(plain.value(text))

  @parameterized.parameters(
      (r'\$9{,}500', '9500', True),
      ('9500', '9501', False),
      (r'40\%', '40', True),
      (r'40\%', '0.4', True),
      (r'40\%', '4', False),
      ('0.4', '40', False),
      ('5 cm', '5', True),
      ('5 cm', '5 mm', False),
      ('5 feet', '5 foot', True),
      ('5 dollars', r'\$5', True),
      ('30 cents', '$30', False),
      ('5 apples', '5 pears', True),  # Units that are not known are ignored.
      ('0.33333', '1/3', True),
      ('0.3333', '1/3', False),  # Four digits.
      ('0.66666', '2/3', True),  # Truncated.
      ('0.66668', '2/3', False),
      ('0.33334', '1/3', False),
      ('16386.20', '16386.17', False),  # Both are exact.
      ('1000000', '1000001', False),
      ('1e-20', '2e-20', False),
      ('33.3333%', '1/3', True),
  )
  def test_same_value(self, answer, reference, expected):
    first, second = plain.value(answer), plain.value(reference)
    self.assertEqual(plain.same_value(first, second), expected)


class WordsTest(parameterized.TestCase):

  @parameterized.parameters(
      ('even', r'\text{Even}', True),
      ('P Y H', 'HYP', True),
      ('ab', 'ba', False),  # May be a product.
      ('sin x', 'x', False),
      ('odd', '3', False),
  )
  def test_is_words(self, answer, reference, expected):
    self.assertEqual(plain.is_words(answer, reference), expected)

  @parameterized.parameters(
      ('(C)', 'C'), (r'\text{(B)}', 'B'), ('D.', 'D'), ('AB', None), ('5', None)
  )
  def test_choice(self, text, expected):
    self.assertEqual(plain.choice(text), expected)


if __name__ == '__main__':
  absltest.main()
