"""The embedded pair's vocabulary: some forty words, one way to cut any text.

The pieces are chosen so that the longest match from the left is the only
sensible cut, digits are tokens of their own, and joining the pieces gives the
text back. Saved as a Hugging Face fast tokeniser, so that `transformers` and
vLLM read it.
"""

from collections.abc import Sequence
import pathlib
import re

from routing import types

PAD = '<pad>'
EOS = '<eos>'
VOCABULARY = (
    (PAD, EOS, types.DELIMITER, '\n', '? P', '? Q', '#### ')
    + tuple('0123456789')
    + (' + ', ' - ', ' * ', ' / ', ' <- ', ' = ', ': ', '. ')
    + tuple(f'{label}) ' for label in 'abcdef')
    + ('P', 'Q', 'P=', ' Q=')
    + (' gets ', ' loses ', ' times ', ' shared by ', ' set to ', 'all ')
)
_PATTERN = '|'.join(
    re.escape(piece) for piece in sorted(VOCABULARY, key=len, reverse=True)
)


class Tokenizer:
  """Text to ids and back."""

  pad_id = VOCABULARY.index(PAD)
  eos_id = VOCABULARY.index(EOS)
  delimiter_id = VOCABULARY.index(types.DELIMITER)

  def __init__(self):
    self._ids = {piece: i for i, piece in enumerate(VOCABULARY)}
    self._cut = re.compile(_PATTERN)

  def __len__(self) -> int:
    return len(VOCABULARY)

  def encode(self, text: str) -> list[int]:
    """The ids of `text`; no token is added.

    Raises:
      ValueError: if a part of the text is not in the vocabulary.
    """
    pieces = self._cut.findall(text)
    if sum(map(len, pieces)) != len(text):
      at = _first_unknown(self._cut, text)
      raise ValueError(
          f'No token for {text[at:at + 12]!r}, at character {at}; the embedded '
          'models know only the words of counter arithmetic.'
      )
    return [self._ids[piece] for piece in pieces]

  def decode(self, ids: Sequence[int]) -> str:
    """The text of `ids`."""
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
        clean_up_tokenization_spaces=False,
    ).save_pretrained(str(directory))


def _first_unknown(cut: re.Pattern, text: str) -> int:
  """Index of the first character that no piece covers."""
  end = 0
  for match in cut.finditer(text):
    if match.start() != end:
      break
    end = match.end()
  return end
