//! The benches of the workspace; each target is a file beside this one.
