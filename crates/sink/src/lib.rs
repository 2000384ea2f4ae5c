//! What a destination of records is.
pub mod feed;
