"""Totals of calls, computed without the accounting of the package."""


def dollars(calls, specs):
  """Returns what the calls cost, from prices for a million tokens."""
  total = 0.0
  for call in calls:
    spec = specs[call.route]
    total += spec.price_input * call.read / 1e6
    total += spec.price_cached * call.cached / 1e6
    total += spec.price_output * call.written / 1e6
  return total


def operations(calls, specs):
  """Returns the floating-point operations, token by token."""
  total = 0
  for call in calls:
    spec = specs[call.route]
    before = call.in_context + call.cached
    # Each token is multiplied with all weights, and looks at those before it.
    for place in range(before, before + call.read + call.written):
      total += 2 * spec.parameters
      total += 2 * spec.num_layers * spec.attention_width * place
  return total


def decoded(calls, specs):
  """Returns the written tokens, times the parameters of who wrote them."""
  return sum(specs[x.route].parameters * x.written for x in calls)


BY_METRIC = dict(price=dollars, flops=operations, decoded_tokens=decoded)
