//! `tidegate rule test`: every case of every file, what does not hold, and the totals.

use std::process::ExitCode;

use super::{TestArgs, file};
use crate::{EXIT_RUNTIME, EXIT_USAGE, print_error, print_line};

pub(super) fn run(args: &TestArgs) -> ExitCode {
    let mut cases = Vec::new();
    for path in &args.files {
        match file::read(path) {
            Ok(read) => cases.extend(read),
            Err(problem) => {
                print_error(&format!("error: {problem}"));
                return ExitCode::from(EXIT_USAGE);
            }
        }
    }
    let (mut passed, mut failed, mut of_erlang) = (0_usize, 0_usize, 0_usize);
    for (place, case) in &cases {
        match case.check() {
            Ok(()) => passed += 1,
            Err(difference) => {
                failed += 1;
                of_erlang += usize::from(case.is_erlang_specific());
                let mark = if case.is_erlang_specific() { "differs (erlang_specific)" } else { "FAILED" };
                print_line(&format!("{mark} {} ({place}): {difference}", one_line(case.name())));
            }
        }
    }
    print_line(&format!("{passed} passed, {failed} failed, {of_erlang} of the failed are erlang_specific"));
    if failed > of_erlang { ExitCode::from(EXIT_RUNTIME) } else { ExitCode::SUCCESS }
}

fn one_line(name: &str) -> String {
    name.split_whitespace().collect::<Vec<_>>().join(" ")
}
