//! Compression. What comes out of a decompression counts against the evaluation's bytes as it comes, so a small
//! message can't become a large one.

use std::io::Read;

use flate2::Compression;
use flate2::read::{DeflateDecoder, DeflateEncoder, GzDecoder, GzEncoder, ZlibDecoder, ZlibEncoder};

use super::{Call, bytes};
use crate::error::EvalErrorKind as Error;
use crate::operators::text_or_bytes;
use crate::value::Value;

type Result<'r> = std::result::Result<Value<'r>, Error>;

/// Bytes made between two looks at the meter.
const CHUNK_BYTES: usize = 8 * 1024;

/// Bytes per step: compressing is that much slower than looking through.
const COMPRESSED_BYTES_A_STEP: usize = 1;
const DECOMPRESSED_BYTES_A_STEP: usize = 8;

/// RFC 1952.
pub(super) fn gzip<'r>(call: &mut Call<'_, 'r>, args: &mut [Value<'r>]) -> Result<'r> {
    let data = input(call, &args[0], "gzip()")?;
    drain(call, GzEncoder::new(data, Compression::default()), "gzip()")
}

pub(super) fn gunzip<'r>(call: &mut Call<'_, 'r>, args: &mut [Value<'r>]) -> Result<'r> {
    drain(call, GzDecoder::new(bytes(&args[0], "gunzip()")?), "gunzip()")
}

/// RFC 1951, without any header.
pub(super) fn zip<'r>(call: &mut Call<'_, 'r>, args: &mut [Value<'r>]) -> Result<'r> {
    let data = input(call, &args[0], "zip()")?;
    drain(call, DeflateEncoder::new(data, Compression::default()), "zip()")
}

pub(super) fn unzip<'r>(call: &mut Call<'_, 'r>, args: &mut [Value<'r>]) -> Result<'r> {
    drain(call, DeflateDecoder::new(bytes(&args[0], "unzip()")?), "unzip()")
}

/// RFC 1950.
pub(super) fn zip_compress<'r>(call: &mut Call<'_, 'r>, args: &mut [Value<'r>]) -> Result<'r> {
    let data = input(call, &args[0], "zip_compress()")?;
    drain(call, ZlibEncoder::new(data, Compression::default()), "zip_compress()")
}

pub(super) fn zip_uncompress<'r>(call: &mut Call<'_, 'r>, args: &mut [Value<'r>]) -> Result<'r> {
    drain(call, ZlibDecoder::new(bytes(&args[0], "zip_uncompress()")?), "zip_uncompress()")
}

fn input<'v>(
    call: &mut Call<'_, '_>,
    value: &'v Value<'_>,
    operation: &'static str,
) -> std::result::Result<&'v [u8], Error> {
    let data = bytes(value, operation)?;
    call.meter.steps(data.len() / COMPRESSED_BYTES_A_STEP)?;
    Ok(data)
}

fn drain<'r>(call: &mut Call<'_, 'r>, mut from: impl Read, operation: &'static str) -> Result<'r> {
    let invalid = |_| Error::InvalidArgument { operation, expected: "whole compressed data" };
    let mut out = Vec::new();
    loop {
        let before = out.len();
        from.by_ref().take(CHUNK_BYTES as u64).read_to_end(&mut out).map_err(invalid)?;
        let made = out.len() - before;
        call.meter.bytes(made)?;
        call.meter.steps(made / DECOMPRESSED_BYTES_A_STEP)?;
        if made < CHUNK_BYTES {
            return Ok(text_or_bytes(out));
        }
    }
}
