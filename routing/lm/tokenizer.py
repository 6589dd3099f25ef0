"""The tokenizer of the embedded models, with about forty tokens.

A text is split from the left into the longest pieces that are in the
vocabulary. Each digit is a token of its own. The tokenizer can be saved in the
format of `transformers`, so that `transformers` and vLLM can load it.
"""

from collections.abc import Sequence
import pathlib
import re

from routing import types

PAD = '<pad>'
EOS = '<eos>'
# The pieces of text that are tokens. A piece's index is its token id, so the
# shipped weights depend on the order.
VOCABULARY = (
    (PAD, EOS, types.DELIMITER, '\n', '? P', '? Q', '#### ')
    + tuple('0123456789')
    + (' + ', ' - ', ' * ', ' / ', ' <- ', ' = ', ': ', '. ')
    + tuple(f'{label}) ' for label in 'abcdef')
    + ('P', 'Q', 'P=', ' Q=')
    + (' gets ', ' loses ', ' times ', ' shared by ', ' set to ', 'all ')
)
# A regular expression takes the first alternative that matches, so longer
# pieces come first. `Tokenizer.save` gives the same pattern to `transformers`.
_PATTERN = '|'.join(
    re.escape(piece) for piece in sorted(VOCABULARY, key=len, reverse=True)
)


class Tokenizer:
  """Converts texts about counter arithmetic to token ids and back."""

  pad_id = VOCABULARY.index(PAD)
  eos_id = VOCABULARY.index(EOS)
  delimiter_id = VOCABULARY.index(types.DELIMITER)

  def __init__(self):
    self._ids = {piece: i for i, piece in enumerate(VOCABULARY)}
    self._cut = re.compile(_PATTERN)

  def __len__(self) -> int:
    return len(VOCABULARY)

  def encode(self, text: str) -> list[int]:
    """Returns the token ids of `text`; no special token is added.

    Raises:
      ValueError: if a part of the text is not in the vocabulary.
    """
    pieces = self._cut.findall(text)
    # `findall` skips text that no piece matches. The lengths differ then.
    if sum(map(len, pieces)) != len(text):
      at = _first_unknown(self._cut, text)
      raise ValueError(
          f'No token matches {text[at:at + 12]!r}, at character {at}; the '
          'embedded models know only the words of counter arithmetic.'
      )
    return [self._ids[piece] for piece in pieces]

  def decode(self, ids: Sequence[int]) -> str:
    """Returns the text of token ids; special tokens appear as '<eos>' etc."""
    return ''.join(VOCABULARY[i] for i in ids)

  def save(
      self,
      directory: str | pathlib.Path,
      added: Sequence[str] = (),
      chat_template: str | None = None,
  ) -> None:
    """Writes tokenizer.json and tokenizer_config.json for `transformers`.

    Args:
      directory: where to write the files.
      added: further special tokens; their ids follow those of the vocabulary.
      chat_template: in Jinja; None = the models have none.
    """
    import tokenizers
    import transformers

    backend = tokenizers.Tokenizer(
        tokenizers.models.WordLevel(dict(self._ids), unk_token=PAD)
    )
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Split(
        tokenizers.Regex(_PATTERN), behavior='isolated'
    )
    backend.decoder = tokenizers.decoders.Fuse()
    backend.add_special_tokens(list(added))
    saved = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=PAD,
        eos_token=EOS,
        # Cleaning up would remove spaces that are part of the pieces.
        clean_up_tokenization_spaces=False,
    )
    saved.chat_template = chat_template
    saved.save_pretrained(str(directory))


def _first_unknown(cut: re.Pattern, text: str) -> int:
  """Returns the index of the first character that is in no piece.

  Args:
    cut: the pattern that matches a piece.
    text: a text that contains such a character.
  """
  end = 0
  for match in cut.finditer(text):
    if match.start() != end:
      break
    end = match.end()
  return end
