//! From text to a tree: what was written, before anything is known about what the names mean.

pub(crate) mod ast;
mod clauses;
pub(crate) mod lexer;
pub(crate) mod parser;
