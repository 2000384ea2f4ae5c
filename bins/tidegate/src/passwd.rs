//! `tidegate passwd`: makes and edits files of credentials.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead as _, IsTerminal as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use clap::Args;
use tidegate_scram::{Credential, Credentials, MECHANISM, NewCredential, SECRET_BYTES, prepare_name};

use crate::{Failure, print_line};

/// Bytes of a new salt.
const SALT_BYTES: usize = 16;

#[derive(Debug, Args)]
pub(crate) struct PasswdArgs {
    /// Credentials for SCRAM-SHA-256, as `[authentication.scram]` reads them.
    #[arg(long, required = true)]
    scram: bool,
    /// Remove the user instead.
    #[arg(long)]
    delete: bool,
    /// How often the password is hashed. More makes guessing slower for who gets hold of the file, and each connection
    /// slower for the device.
    #[arg(long, value_name = "COUNT", default_value_t = 4096)]
    iterations: u32,
    /// The file. It is created where it does not exist.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The user. The password is the first line of the standard input, or asked for.
    #[arg(value_name = "USER")]
    user: String,
}

/// Sets the password of a user, or removes the user.
pub(crate) fn passwd(args: &PasswdArgs) -> Result<(), Failure> {
    let file = args.file.display();
    let user = prepare_name(&args.user).ok_or_else(|| {
        Failure::Usage(format!(
            "error: `{}` cannot be a user name (RFC 4013, and no `#` in front)",
            args.user
        ))
    })?;
    let old = read(&args.file).map_err(|error| Failure::Runtime(format!("error: {file}: {error}")))?;
    if let Some(text) = &old {
        // What is wrong with it is told before it is written again.
        Credentials::parse(text).map_err(|error| Failure::Usage(format!("error: {file}: {error}")))?;
    }
    let is_known = old.as_deref().is_some_and(|text| text.lines().any(|line| is_of(line, &user)));
    if args.delete && !is_known {
        return Err(Failure::Usage(format!("error: {file} has no user `{user}`")));
    }
    let line = if args.delete { None } else { Some(credential(args, &user)?) };
    let text = edited(old, &user, line.as_deref())?;
    replace(&args.file, &text).map_err(|error| Failure::Runtime(format!("error: {file}: {error}")))?;
    print_line(&match (args.delete, is_known) {
        (true, _) => format!("removed {user}"),
        (false, true) => format!("changed {user}"),
        (false, false) => format!("added {user}"),
    });
    Ok(())
}

/// The line of a user, for the password that is asked for.
fn credential(args: &PasswdArgs, user: &str) -> Result<String, Failure> {
    let password =
        read_password(user).map_err(|error| Failure::Runtime(format!("error: password: {error}")))?;
    let new =
        NewCredential { password: &password, salt: &random::<SALT_BYTES>()?, iterations: args.iterations };
    let credential =
        Credential::derive(&new).map_err(|error| Failure::Usage(format!("error: password: {error}")))?;
    Ok(format!("{user}:{credential}"))
}

/// The file with the user's line put in, replaced or left out. Everything else stays as it is.
fn edited(old: Option<String>, user: &str, line: Option<&str>) -> Result<String, Failure> {
    let old = match old {
        Some(text) => text,
        None => format!("{}\n", Credentials::secret_line(&random::<SECRET_BYTES>()?)),
    };
    let mut line = line;
    let mut lines: Vec<&str> =
        old.lines().filter_map(|known| if is_of(known, user) { line.take() } else { Some(known) }).collect();
    lines.extend(line);
    Ok(lines.join("\n") + "\n")
}

fn is_of(line: &str, user: &str) -> bool {
    line.strip_prefix(user)
        .and_then(|rest| rest.strip_prefix(':'))
        .is_some_and(|rest| rest.starts_with(MECHANISM))
}

/// The first line of the standard input; from a terminal it is asked for twice, without showing it.
fn read_password(user: &str) -> io::Result<String> {
    if io::stdin().is_terminal() {
        let password = rpassword::prompt_password(format!("password of {user}: "))?;
        if password != rpassword::prompt_password("again: ")? {
            return Err(io::Error::other("they are not the same"));
        }
        return Ok(password);
    }
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line)?;
    let without_end = line.trim_end_matches(['\r', '\n']).len();
    line.truncate(without_end);
    Ok(line)
}

fn read(path: &Path) -> io::Result<Option<String>> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Puts a whole new file in the place of the old one, for nobody else to read.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = PathBuf::from(beside);
    let mut file: File =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
    if let Ok(old) = std::fs::metadata(path) {
        file.set_permissions(old.permissions())?;
    }
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&beside, path)
}

fn random<const N: usize>() -> Result<[u8; N], Failure> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes)
        .map_err(|error| Failure::Runtime(format!("error: no random bytes from the system: {error}")))?;
    Ok(bytes)
}
