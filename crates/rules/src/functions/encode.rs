//! Bytes as texts and back.

use base64::Engine as _;
use base64::alphabet::{self, Alphabet};
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use super::{Call, bytes, text};
use crate::error::EvalErrorKind as Error;
use crate::operators::text_or_bytes;
use crate::value::Value;

type Result<'r> = std::result::Result<Value<'r>, Error>;

/// `base64_encode(bytes, 'no_padding', 'urlsafe')`, both options optional and in any order [RFC 4648].
pub(super) fn base64_encode<'r>(call: &mut Call<'_, 'r>, args: &mut [Value<'r>]) -> Result<'r> {
    let engine = base64_engine(&args[1..], "base64_encode()")?;
    let data = bytes(&args[0], "base64_encode()")?;
    call.meter.bytes(data.len() / 3 * 4 + 4)?;
    Ok(engine.encode(data).into())
}

/// The other way round. White space between the digits is passed over.
pub(super) fn base64_decode<'r>(call: &mut Call<'_, 'r>, args: &mut [Value<'r>]) -> Result<'r> {
    let engine = base64_engine(&args[1..], "base64_decode()")?;
    let digits = bytes(&args[0], "base64_decode()")?;
    call.meter.bytes(digits.len())?;
    let compact: Vec<u8> = digits.iter().copied().filter(|b| !b.is_ascii_whitespace()).collect();
    let invalid = |_| Error::InvalidArgument { operation: "base64_decode()", expected: "base64" };
    engine.decode(compact).map(text_or_bytes).map_err(invalid)
}

fn base64_engine(
    options: &[Value<'_>],
    operation: &'static str,
) -> std::result::Result<GeneralPurpose, Error> {
    let mut alphabet: &Alphabet = &alphabet::STANDARD;
    let mut config = GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true);
    for option in options {
        match option {
            Value::Str(option) if option == "urlsafe" => alphabet = &alphabet::URL_SAFE,
            Value::Str(option) if option == "no_padding" => {
                config = config.with_encode_padding(false);
                config = config.with_decode_padding_mode(DecodePaddingMode::Indifferent);
            }
            // Other options are passed over, as in EMQX.
            Value::Str(_) => {}
            other => return Err(Error::WrongType { operation, expected: "a text", found: other.kind() }),
        }
    }
    Ok(GeneralPurpose::new(alphabet, config))
}

/// Capital hexadecimal digits, after a prefix if there is one.
pub(super) fn bin2hexstr<'r>(call: &mut Call<'_, 'r>, args: &mut [Value<'r>]) -> Result<'r> {
    let prefix = args.get_mut(1).map(|prefix| text(prefix, "bin2hexstr()")).transpose()?;
    hexadecimal(call, prefix.as_deref().unwrap_or_default(), &args[0], "bin2hexstr()")
}

pub(super) fn sqlserver_bin2hexstr<'r>(call: &mut Call<'_, 'r>, args: &mut [Value<'r>]) -> Result<'r> {
    hexadecimal(call, "0x", &args[0], "sqlserver_bin2hexstr()")
}

fn hexadecimal<'r>(
    call: &mut Call<'_, 'r>,
    prefix: &str,
    value: &Value<'r>,
    operation: &'static str,
) -> Result<'r> {
    const DIGITS: [char; 16] =
        ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'A', 'B', 'C', 'D', 'E', 'F'];
    let data = bytes(value, operation)?;
    call.meter.bytes(prefix.len() + data.len() * 2)?;
    let mut digits = String::with_capacity(prefix.len() + data.len() * 2);
    digits.push_str(prefix);
    digits.extend(data.iter().flat_map(|b| [b >> 4, b & 0xF]).map(|nibble| DIGITS[usize::from(nibble)]));
    Ok(digits.into())
}

/// The bytes of hexadecimal digits, which must begin with the prefix if one is given. An odd number of digits has a
/// zero in front.
pub(super) fn hexstr2bin<'r>(call: &mut Call<'_, 'r>, args: &mut [Value<'r>]) -> Result<'r> {
    const NAME: &str = "hexstr2bin()";
    let prefix = args.get_mut(1).map(|prefix| text(prefix, NAME)).transpose()?;
    let digits = text(&mut args[0], NAME)?;
    let invalid = |expected| Error::InvalidArgument { operation: NAME, expected };
    let digits = match prefix {
        Some(prefix) => digits.strip_prefix(&*prefix).ok_or_else(|| invalid("a text with that prefix"))?,
        None => &digits,
    };
    call.meter.bytes(digits.len().div_ceil(2))?;
    let nibbles: Option<Vec<u8>> = digits.chars().map(|c| c.to_digit(16)?.try_into().ok()).collect();
    let nibbles = nibbles.ok_or_else(|| invalid("hexadecimal digits"))?;
    let (head, pairs) = nibbles.split_at(nibbles.len() % 2);
    Ok(text_or_bytes(
        head.iter().copied().chain(pairs.chunks(2).map(|pair| pair[0] << 4 | pair[1])).collect(),
    ))
}

/// A value as a text in UTF-16, the low byte of each unit first.
pub(super) fn str_utf16_le<'r>(call: &mut Call<'_, 'r>, args: &mut [Value<'r>]) -> Result<'r> {
    let mut written = Vec::new();
    args[0].write_text(&mut written);
    let invalid = |_| Error::InvalidArgument { operation: "str_utf16_le()", expected: "a text" };
    let written = String::from_utf8(written).map_err(invalid)?;
    call.meter.bytes(written.len().saturating_mul(3))?;
    Ok(text_or_bytes(written.encode_utf16().flat_map(u16::to_le_bytes).collect()))
}
