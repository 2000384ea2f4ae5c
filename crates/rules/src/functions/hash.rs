//! Checksums and digests, in hexadecimal digits.

use std::fmt::Write as _;

use hmac::{Hmac, Mac as _};
use md5::Md5;
use sha1::Sha1;
use sha2::{Digest, Sha224, Sha256, Sha384, Sha512};
use sha3::{Sha3_224, Sha3_256, Sha3_384, Sha3_512};

use super::{Call, bytes, text};
use crate::error::EvalErrorKind as Error;
use crate::value::Value;

type Result<'r> = std::result::Result<Value<'r>, Error>;

pub(super) fn md5<'r>(call: &mut Call<'_, 'r>, args: &mut [Value<'r>]) -> Result<'r> {
    digest::<Md5>(call, &args[0], "md5()")
}

pub(super) fn sha<'r>(call: &mut Call<'_, 'r>, args: &mut [Value<'r>]) -> Result<'r> {
    digest::<Sha1>(call, &args[0], "sha()")
}

pub(super) fn sha256<'r>(call: &mut Call<'_, 'r>, args: &mut [Value<'r>]) -> Result<'r> {
    digest::<Sha256>(call, &args[0], "sha256()")
}

/// The digest by the name of its algorithm.
pub(super) fn hash<'r>(call: &mut Call<'_, 'r>, args: &mut [Value<'r>]) -> Result<'r> {
    let algorithm = text(&mut args[0], "hash()")?;
    let run = match &*algorithm {
        "md5" => digest::<Md5>,
        "sha" | "sha1" => digest::<Sha1>,
        "sha224" => digest::<Sha224>,
        "sha256" => digest::<Sha256>,
        "sha384" => digest::<Sha384>,
        "sha512" => digest::<Sha512>,
        "sha3_224" => digest::<Sha3_224>,
        "sha3_256" => digest::<Sha3_256>,
        "sha3_384" => digest::<Sha3_384>,
        "sha3_512" => digest::<Sha3_512>,
        _ => {
            let expected =
                "md5, sha1, sha224, sha256, sha384, sha512, sha3_224, sha3_256, sha3_384 or sha3_512";
            return Err(Error::InvalidArgument { operation: "hash()", expected });
        }
    };
    run(call, &args[1], "hash()")
}

/// The keyed digest by the name of its algorithm [RFC 2104].
pub(super) fn hmac<'r>(call: &mut Call<'_, 'r>, args: &mut [Value<'r>]) -> Result<'r> {
    let algorithm = text(&mut args[0], "hmac()")?;
    let (key, data) = (bytes(&args[1], "hmac()")?, bytes(&args[2], "hmac()")?);
    call.meter.scan(key.len().saturating_add(data.len()).saturating_mul(COST))?;
    let expected = "md5, sha1, sha224, sha256, sha384 or sha512";
    let invalid = Error::InvalidArgument { operation: "hmac()", expected };
    // Each type has constants of its own, so a macro is what is shorter than six copies.
    macro_rules! keyed {
        ($digest:ty) => {{
            let mut mac = Hmac::<$digest>::new_from_slice(key).map_err(|_| invalid)?;
            mac.update(data);
            hexadecimal(&mac.finalize().into_bytes())
        }};
    }
    let digits = match &*algorithm {
        "md5" => keyed!(Md5),
        "sha" | "sha1" => keyed!(Sha1),
        "sha224" => keyed!(Sha224),
        "sha256" => keyed!(Sha256),
        "sha384" => keyed!(Sha384),
        "sha512" => keyed!(Sha512),
        _ => return Err(invalid),
    };
    Ok(digits.into())
}

/// The checksum of Ethernet, gzip and PNG as an integer.
pub(super) fn crc32<'r>(call: &mut Call<'_, 'r>, args: &mut [Value<'r>]) -> Result<'r> {
    let data = bytes(&args[0], "crc32()")?;
    call.meter.scan(data.len())?;
    Ok(Value::Int(crc32fast::hash(data).into()))
}

/// How many times longer a byte takes to digest than to look at.
const COST: usize = 16;

fn digest<'r, D: Digest>(call: &mut Call<'_, 'r>, data: &Value<'r>, operation: &'static str) -> Result<'r> {
    let data = bytes(data, operation)?;
    call.meter.scan(data.len().saturating_mul(COST))?;
    Ok(hexadecimal(&D::digest(data)).into())
}

fn hexadecimal(bytes: &[u8]) -> String {
    let mut digits = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        let _ = write!(digits, "{byte:02x}");
    }
    digits
}
