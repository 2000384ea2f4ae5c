//! Scripted peers, ledgers and servers for the tests of the workspace.
