"""The vocabulary of the embedded pair: about forty pieces of text.

Every text has exactly one sensible split: the longest match from the left.
Digits are tokens of their own, and the pieces of a text join to it. Saved as a
Hugging Face fast tokenizer, so that `transformers` and vLLM can load it.
"""

from collections.abc import Sequence
import pathlib
import re

from routing import types

PAD = '<pad>'
EOS = '<eos>'
# The index of a piece is its id: the shipped weights depend on the order.
VOCABULARY = (
    (PAD, EOS, types.DELIMITER, '\n', '? P', '? Q', '#### ')
    + tuple('0123456789')
    + (' + ', ' - ', ' * ', ' / ', ' <- ', ' = ', ': ', '. ')
    + tuple(f'{label}) ' for label in 'abcdef')
    + ('P', 'Q', 'P=', ' Q=')
    + (' gets ', ' loses ', ' times ', ' shared by ', ' set to ', 'all ')
)
# A regex alternation takes the first match, so longer pieces come first. The
# same pattern splits text in `transformers` (see `Tokenizer.save`).
_PATTERN = '|'.join(
    re.escape(piece) for piece in sorted(VOCABULARY, key=len, reverse=True)
)


class Tokenizer:
  """Converts text to token ids and back."""

  pad_id = VOCABULARY.index(PAD)
  eos_id = VOCABULARY.index(EOS)
  delimiter_id = VOCABULARY.index(types.DELIMITER)

  def __init__(self):
    self._ids = {piece: i for i, piece in enumerate(VOCABULARY)}
    self._cut = re.compile(_PATTERN)

  def __len__(self) -> int:
    return len(VOCABULARY)

  def encode(self, text: str) -> list[int]:
    """Returns the ids of `text`; no special token is added.

    Raises:
      ValueError: if a part of the text is not in the vocabulary.
    """
    pieces = self._cut.findall(text)
    # `findall` skips what it does not know, so compare the lengths.
    if sum(map(len, pieces)) != len(text):
      at = _first_unknown(self._cut, text)
      raise ValueError(
          f'There is no token for {text[at:at + 12]!r}, at character {at}; the '
          'embedded models know only the words of counter arithmetic.'
      )
    return [self._ids[piece] for piece in pieces]

  def decode(self, ids: Sequence[int]) -> str:
    """Returns the text of `ids`."""
    return ''.join(VOCABULARY[i] for i in ids)

  def save(self, directory: str | pathlib.Path) -> None:
    """Writes tokenizer.json and tokenizer_config.json for `transformers`."""
    import tokenizers
    import transformers

    backend = tokenizers.Tokenizer(
        tokenizers.models.WordLevel(dict(self._ids), unk_token=PAD)
    )
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Split(
        tokenizers.Regex(_PATTERN), behavior='isolated'
    )
    backend.decoder = tokenizers.decoders.Fuse()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=PAD,
        eos_token=EOS,
        # Cleaning would change spaces, which are part of the pieces.
        clean_up_tokenization_spaces=False,
    ).save_pretrained(str(directory))


def _first_unknown(cut: re.Pattern, text: str) -> int:
  """Returns the index of the first character that no piece covers."""
  end = 0
  for match in cut.finditer(text):
    if match.start() != end:
      break
    end = match.end()
  return end
