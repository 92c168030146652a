"""British spellings, for the test that keeps them out."""

import re

BRITISH = re.compile(
    r"""(?<![a-z])(?:
      # verbs in -ise
        (?: capital | categor | character | crystall | custom | discret | emphas | equal
          | familiar | final | formal | general | harmon | initial | ion | item | legal | linear
          | local | material | maxim | memor | minim | modern | neutral | normal | optim | organ
          | parallel | penal | polar | popular | prior | priorit | quant | random | rational
          | real | recogn | regular | reorgan | sanit | serial | special | stabil | standard
          | summar | symmetr | synchron | synthes | thermal | token | util | vector | visual
        ) is (?: e | ed | es | er | ers | ing | able | ation | ations )
      # -our, -re
      | (?: arm | behavi | col | endeav | fav | flav | harb | hon | hum | lab | misbehavi | neighb
          | od | rig | rum | sav | vap | vig
        ) our (?: s | ed | ing | able | al | ful | hood | hoods | ite | less )?
      | (?: kilo | centi | milli | micro | nano | pico )? met re s?
      | (?: cent | fib | lit | lust | spect | theat | calib | somb ) re s?
      | centr (?: ed | ing )
      # doubled and single consonants
      | (?: cancel | channel | dial | equal | fuel | label | level | marshal | model | pedal
          | relabel | rival | signal | total | travel | tunnel | unravel
        ) l (?: ed | ing | er | ers )
      | focuss (?: ed | ing ) | benefitt (?: ed | ing )
      | enrol | fulfil s? | fulfilment | instalments? | skilful
      # -yse, -ce, -ogue
      | (?: anal | catal | dial | hydrol | paral ) ys (?: e | ed | ing | er | ers )
      | (?: def | lic | off | pret ) ence s? | practis (?: e | ed | es | ing )
      | (?: ana | cata | homo ) logue s? | programme s?
      # words
      | acknowledgement s? | ageing | aluminium | amongst | artefact s? | cheque s? | draught s?
      | enquir (?: e | es | ed | y | ies ) | grey (?: s | ed | ing | ish )? | jewellery
      | judgement s? | kerb s? | man oeuvr \w* | marvellous | maths | mould \w* | orientated
      | sceptic \w* | sulph \w* | tonne s? | towards | tyre s? | whilst
      | burnt | dreamt | leant | leapt | learnt | spelt | spoilt
    )(?![a-z])""",
    re.IGNORECASE | re.VERBOSE,
)
# Spelled so by Python and gRPC, or kept because files and flags have it.
_KEPT = re.compile(
    r"""\.cancell(?:ed|ing)\(\) | \bdef\ cancelled\b | \w*_cancelled | CancelledError | CANCELLED
      | \boptimise (?= [:\"`',] | \.png | $ ) | "optimisation" | \bjudgements\b
      | [\"'.] licence\b | ^\s* licence\b | \blicence (?= \s?[=:,)] )""",
    re.VERBOSE,
)


def british_words(line: str) -> list[str]:
    """Return the words of a line that are not spelled as in American English."""
    return BRITISH.findall(_KEPT.sub("", line))
